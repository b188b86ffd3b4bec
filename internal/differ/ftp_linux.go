package differ

import (
	"bufio"
	"errors"
	"fmt"
	"net"
)

// ftp is a server and its live control connections on the loopback device.
// The kernel's helper listens to what they say.
type ftp struct {
	listeners []*net.TCPListener
	conns     []*net.TCPConn
}

// ftpPort is where the helper listens.
const ftpPort = 21

// session is one control connection and what is said on it.
type session struct {
	ip         string
	port       int // of the client
	fromServer bool
	says       string
}

// sessions announce a data connection of each kind.
var sessions = []session{
	{"127.0.0.1", 30021, false, "PORT 127,0,0,1,120,1\r\n"},
	{"127.0.0.1", 30022, true, "227 Entering Passive Mode (127,0,0,1,121,2).\r\n"},
	{"::1", 30023, false, "EPRT |2|::1|31002|\r\n"},
}

// listenFTP listens in the calling thread's namespace.
func listenFTP() (*ftp, error) {
	f := &ftp{}
	for _, ip := range []string{"127.0.0.1", "::1"} {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(ip), Port: ftpPort})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for FTP: %w", err), f.end())
		}
		f.listeners = append(f.listeners, l)
	}
	return f, nil
}

// open opens all sessions, in the calling thread's namespace.
func (f *ftp) open() error {
	for _, s := range sessions {
		if err := f.talk(s); err != nil {
			return fmt.Errorf("FTP from port %d: %w", s.port, err)
		}
	}
	return nil
}

// talk opens one session and says its line.
func (f *ftp) talk(s session) error {
	l := f.listeners[0]
	if net.ParseIP(s.ip).To4() == nil {
		l = f.listeners[1]
	}
	ip := net.ParseIP(s.ip)
	client, err := net.DialTCP("tcp", &net.TCPAddr{IP: ip, Port: s.port}, &net.TCPAddr{IP: ip, Port: ftpPort})
	if err != nil {
		return err
	}
	f.conns = append(f.conns, client)
	server, err := l.AcceptTCP()
	if err != nil {
		return err
	}
	f.conns = append(f.conns, server)
	from, to := client, server
	if s.fromServer {
		from, to = server, client
	}
	if _, err := from.Write([]byte(s.says)); err != nil {
		return err
	}
	_, err = bufio.NewReader(to).ReadString('\n')
	return err
}

// hangUp ends all sessions with a reset, so that their ports are free at once.
func (f *ftp) hangUp() {
	for _, c := range f.conns {
		_ = c.SetLinger(0) // a closed one has none
		_ = c.Close()
	}
	f.conns = nil
}

// end closes the listeners.
func (f *ftp) end() error {
	var errs []error
	for _, l := range f.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// close ends everything.
func (f *ftp) close() {
	f.hangUp()
	_ = f.end() // the namespace goes anyway
}
