//go:build linux

package demo

import ("testing";"context";"os")
func TestFull(t *testing.T){ if err:=Run(context.Background(),Options{Out:os.Stdout,Progress:os.Stderr,SVG:"/tmp/demo.svg"});err!=nil{t.Fatal(err)}}
