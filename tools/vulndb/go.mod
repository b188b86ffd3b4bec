// The database of known vulnerabilities, as tools/vuln reads it: data, not code, so "go mod tidy" would drop it. A newer
// one: go -C tools/vulndb get golang.org/x/vulndb@master
module flowcut/tools/vulndb

go 1.26.0

require golang.org/x/vulndb v0.0.0-20261105234957-e22db6528018
