package fence

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab/labtest"
)

// Whether a process lives is told by what other users and containers may see of
// it; where they may not, it is not taken for gone.
func TestOwner(t *testing.T) {
	if lives, known := self().lives(); !lives || !known {
		t.Errorf("this process: lives %v, known %v", lives, known)
	}
	child := exec.Command("sleep", "100")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_, start, err := stat(fmt.Sprint(child.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	o := owner{child.Process.Pid, start, self().space}
	if lives, known := o.lives(); !lives || !known {
		t.Errorf("a process: lives %v, known %v", lives, known)
	}
	// The threads of the runtime go on as root; this one ends with its goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Error(errno)
		}
		if err := unix.Kill(o.pid, 0); err != unix.EPERM {
			t.Errorf("nobody may ask about processes of root, error %v: the test does not test", err)
		}
		if lives, known := o.lives(); !lives || !known {
			t.Errorf("a process of another user: lives %v, known %v", lives, known)
		}
	}()
	<-done
	for name, other := range map[string]owner{
		"the number of another process": {o.pid, start + "1", o.space},
		"a number that is not in use":   {4194305, start, o.space},
	} {
		if lives, known := other.lives(); lives || !known {
			t.Errorf("%s: lives %v, known %v", name, lives, known)
		}
	}
	for name, other := range map[string]owner{
		"another namespace": {o.pid, start, "1"},
		"no namespace":      {o.pid, start, ""},
		"no start":          {o.pid, "", o.space},
	} {
		if lives, known := other.lives(); lives || known {
			t.Errorf("%s: lives %v, known %v", name, lives, known)
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	labtest.Until(t, "it is dead, and not waited for", func() bool {
		state, _, err := stat(fmt.Sprint(o.pid))
		return err == nil && state == "Z"
	})
	if lives, known := o.lives(); lives || !known {
		t.Errorf("a process that nobody has waited for: lives %v, known %v", lives, known)
	}
	_ = child.Wait()
}

// A process in a namespace of its own, with a /proc that is not, is not taken for
// the one that has its number there.
func TestOwnerWithStrangeProc(t *testing.T) {
	const inside = "FLOWCUT_TEST_OWNER"
	if os.Getenv(inside) != "" {
		fmt.Println(self().comment(1))
		_, known := owner{1, self().start, self().space}.lives()
		fmt.Println("known", known)
		return
	}
	child := exec.Command(os.Args[0], "-test.run", "^TestOwnerWithStrangeProc$")
	child.Env = append(os.Environ(), inside+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := ownerWord.FindStringSubmatch(string(out))
	_, first, _ := stat("1")
	if m == nil || m[2] != "1" || m[3] == "" || m[3] == first || m[4] == "" || m[4] == self().space {
		t.Errorf("its rules say %q; process 1 began at %s in %s", out, first, self().space)
	}
	if !strings.Contains(string(out), "known false") {
		t.Errorf("it takes others for itself: %s", out)
	}
}

// Chains of a name like ours that somebody else's rule calls are left alone.
func TestLeftoversOfOthers(t *testing.T) {
	const name, stop = xtChains + "0badcafe", "-m time --datestop 2020-01-01T00:00:00 "
	for rule, want := range map[string]int{
		"-j " + name: 0,
		"-m comment --comment \"mine\" -j " + name:                                       0,
		stop + "-m comment --comment \"flowcut-00000001 pid 7 start 8 in 9\" -j " + name: 0,
		stop + "-m comment --comment \"flowcut-0badcafe pid 7 start 8 in 9\" -j " + name: 1,
	} {
		text := "*filter\n:" + name + " - [0:0]\n[0:0] -A FORWARD " + rule + "\n[0:0] -A " + name + " -j DROP\nCOMMIT\n"
		if list := leftovers(text, time.Now()); len(list) != want {
			t.Errorf("%s: %v", rule, list)
		}
	}
}
