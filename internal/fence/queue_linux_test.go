package fence

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inUserNS tells the test below that it runs in a user namespace.
const inUserNS = "FLOWCUT_TEST_USERNS"

// Whether there are queues can be asked in a user namespace, as of a container,
// where a socket's buffer may not be larger than the host's limit.
func TestQueuedInUserNamespace(t *testing.T) {
	if os.Getenv(inUserNS) == "" {
		c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		c.Env = append(os.Environ(), inUserNS+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}},
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		return
	}
	q := new(queueFile)
	if some, err := q.any(); some || err != nil {
		t.Errorf("queues: %v, %v", some, err)
	}
}
