//go:build linux

// Package kernels boots kernels that Debian packages under QEMU, without KVM,
// and runs compiled tests of ours on them.
//
// What is downloaded or unpacked is kept in a cache of its own; the host's
// package sources, its network and its namespaces are left alone.
package kernels

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Suite is a suite of Debian's archive whose newest kernel is run.
type Suite string

// Suites of which each has a kernel of its own generation, oldest first.
var Suites = []Suite{"bookworm", "bookworm-backports", "trixie-backports"}

// Kernel is one that was unpacked.
type Kernel struct {
	Package string // Debian's version, such as 6.1.176-1
	Release string // what uname -r says
	Image   string // path of the compressed kernel
	Modules string // the root below which lib/modules/RELEASE is, with what depmod writes
}

// packages are those of a kernel: until 7.x one, since then several.
var packages = regexp.MustCompile(`^linux-(image|binary|modules)-[0-9]\S*$`)

// Fetch brings the newest kernel of a suite into the cache, or finds it there.
// With refresh it asks the archive again. It needs apt, dpkg-deb and depmod.
func Fetch(ctx context.Context, cache string, suite Suite, refresh bool) (*Kernel, error) {
	root := filepath.Join(cache, string(suite), "root")
	if _, err := os.Stat(root); err != nil || refresh {
		if err := download(ctx, filepath.Join(cache, string(suite)), suite); err != nil {
			return nil, fmt.Errorf("kernels: fetch the kernel of %s: %w", suite, err)
		}
	}
	k, err := open(root)
	if err != nil {
		return nil, fmt.Errorf("kernels: %s: %w; remove %s to begin anew", suite, err, filepath.Dir(root))
	}
	return k, nil
}

// download asks apt with a configuration of its own, so that the host knows
// nothing of the suite.
func download(ctx context.Context, dir string, suite Suite) error {
	config, err := aptConfig(dir, suite)
	if err != nil {
		return err
	}
	apt := func(args ...string) (string, error) {
		return command{env: []string{"APT_CONFIG=" + config}, dir: filepath.Join(dir, "debs")}.output(ctx, args...)
	}
	if _, err := apt("apt-get", "update", "-qq"); err != nil {
		return err
	}
	tree, err := apt("apt-cache", "depends", "--recurse", "--important", "linux-image-cloud-amd64")
	if err != nil {
		return err
	}
	var wanted []string
	for line := range strings.Lines(tree) {
		if name := strings.TrimRight(line, "\n"); packages.MatchString(name) {
			wanted = append(wanted, name)
		}
	}
	if len(wanted) == 0 {
		return errors.New("linux-image-cloud-amd64 depends on no kernel")
	}
	if _, err := apt(append([]string{"apt-get", "download"}, wanted...)...); err != nil {
		return err
	}
	return unpack(ctx, dir)
}

// unpack makes root out of the packages, whole or not at all.
func unpack(ctx context.Context, dir string) error {
	debs, err := filepath.Glob(filepath.Join(dir, "debs", "*.deb"))
	if err != nil {
		return err
	}
	root, part := filepath.Join(dir, "root"), filepath.Join(dir, "root.part")
	for _, old := range []string{root, part, filepath.Join(dir, "said")} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	for _, deb := range debs {
		if _, err := (command{}).output(ctx, "dpkg-deb", "--extract", deb, part); err != nil {
			return err
		}
	}
	// Debian has moved lib below usr. Where it has not yet, it comes there, too.
	if _, err := os.Stat(filepath.Join(part, "lib")); err == nil {
		if err := os.MkdirAll(filepath.Join(part, "usr"), 0o755); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(part, "lib"), filepath.Join(part, "usr/lib")); err != nil {
			return err
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(part, "lib")); err != nil {
		return err
	}
	k, err := open(part)
	if err != nil {
		return err
	}
	if _, err := (command{}).output(ctx, "depmod", "-b", part, k.Release); err != nil {
		return err
	}
	return os.Rename(part, root)
}

// aptConfig writes a configuration with all paths below dir and returns its
// own.
func aptConfig(dir string, suite Suite) (string, error) {
	for _, d := range []string{"apt/lists/partial", "apt/cache/archives/partial", "apt/etc", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	// An older kernel of the suite is not to be unpacked along with the new one.
	old, err := filepath.Glob(filepath.Join(dir, "debs", "*.deb"))
	if err != nil {
		return "", err
	}
	for _, deb := range old {
		if err := os.Remove(deb); err != nil {
			return "", err
		}
	}
	apt, config := filepath.Join(dir, "apt"), filepath.Join(dir, "apt", "apt.conf")
	files := map[string]string{
		"apt/status": "",
		"apt/etc/sources.list": "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " +
			"http://deb.debian.org/debian " + string(suite) + " main\n",
		"apt/apt.conf": fmt.Sprintf(`Dir::State %[1]q;
Dir::State::status "%[1]s/status";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
Dir::Etc "%[1]s/etc";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
APT::Architecture "amd64";
APT::Sandbox::User "root";
`, apt),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return config, nil
}

// open finds the parts of an unpacked kernel.
func open(root string) (*Kernel, error) {
	found, err := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d kernels are unpacked in %s, not one", len(found), root)
	}
	k := &Kernel{Release: filepath.Base(found[0]), Modules: root}
	for _, image := range []string{"boot/vmlinuz-" + k.Release, "usr/lib/modules/" + k.Release + "/vmlinuz"} {
		path := filepath.Join(root, image)
		if _, err := os.Stat(path); err == nil {
			k.Image = path
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if k.Image == "" {
		return nil, fmt.Errorf("no vmlinuz of %s in %s", k.Release, root)
	}
	docs, err := filepath.Glob(filepath.Join(root, "../debs/*.deb"))
	if err != nil || len(docs) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no package of %s is left", k.Release))
	}
	// NAME_VERSION_ARCH.deb
	if parts := strings.Split(filepath.Base(docs[0]), "_"); len(parts) == 3 {
		k.Package = strings.ReplaceAll(parts[1], "%3a", ":")
	}
	return k, nil
}
