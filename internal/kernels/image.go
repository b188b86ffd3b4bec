//go:build linux

package kernels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"flowcut/internal/kernels/plan"
)

// programs of the host that guests have: modprobe, which the kernel calls for
// what it lacks, and what tests compare with or set rules up with.
var programs = map[string]string{
	"/sbin/modprobe":  "kmod",
	"/sbin/nft":       "nft",
	"/sbin/iptables":  "xtables-nft-multi",
	"/sbin/conntrack": "conntrack",
	"/sbin/ipvsadm":   "ipvsadm",
}

// plugins is where iptables has what it loads at run time.
const plugins = "/usr/lib/x86_64-linux-gnu/xtables"

// modules is what of a kernel's modules a guest gets: networking, and what that
// needs.
var modules = regexp.MustCompile(`^(modules\..*|kernel/(net|lib|crypto|arch/x86/crypto|arch/x86/lib)/.*|kernel/drivers/net/[^/]*|kernel/drivers/net/vxlan/.*|kernel/drivers/ptp/.*)$`)

// image writes the first root of a guest.
func image(ctx context.Context, to string, k *Kernel, b *built, p plan.Plan) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a := newArchive(f)
	for _, name := range []string{"lib", "lib64", "bin", "sbin"} {
		if err := a.dir("usr/" + name); err != nil {
			return err
		}
		if err := a.link(name, "usr/"+name); err != nil {
			return err
		}
	}
	if err := a.link("var/run", "/run"); err != nil {
		return err
	}
	below := "usr/lib/modules/" + k.Release
	if err := a.tree(below, filepath.Join(k.Modules, below), modules.MatchString); err != nil {
		return err
	}
	for name, program := range programs {
		if err := addProgram(ctx, a, name, program); err != nil {
			return err
		}
	}
	if err := a.tree(plugins, plugins, func(string) bool { return true }); err != nil {
		return err
	}
	if err := b.addTo(a); err != nil {
		return err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := a.text("plan.json", string(text)); err != nil {
		return err
	}
	return a.close()
}

// library finds the paths in a line of ldd(1): "libm.so.6 => /lib/libm.so.6 (0x7f...)"
// or "/lib64/ld-linux-x86-64.so.2 (0x7f...)".
var library = regexp.MustCompile(`^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$`)

// addProgram adds a program of the host with the libraries that it is linked with.
func addProgram(ctx context.Context, a *archive, name, program string) error {
	path, err := lookPath(program)
	if err != nil {
		return err
	}
	if err := a.file(merged(name), path); err != nil {
		return err
	}
	text, err := command{}.output(ctx, "ldd", path)
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", path, err)
	}
	for line := range strings.Lines(text) {
		if found := library.FindStringSubmatch(strings.TrimRight(line, "\n")); found != nil {
			if err := a.file(merged(found[1]), found[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// merged is the path where a file really is when bin, sbin and lib are links
// to what is below usr.
func merged(path string) string {
	if strings.HasPrefix(path, "/usr/") {
		return path
	}
	return "/usr" + path
}

// lookPath finds a program, also where only root looks for it.
func lookPath(program string) (string, error) {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		path := filepath.Join(dir, program)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", program)
}
