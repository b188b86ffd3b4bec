package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// Sizes of the headers of a message.
const (
	nlHeaderLen  = 16 // struct nlmsghdr
	nfHeaderLen  = 4  // struct nfgenmsg
	msgHeaderLen = nlHeaderLen + nfHeaderLen
)

// msgType is the type of a netlink message.
// Source: include/uapi/linux/netlink.h; those of flows are
// NFNL_SUBSYS_CTNETLINK << 8 plus enum cntl_msg_types, those of expectations
// NFNL_SUBSYS_CTNETLINK_EXP << 8 plus enum ctnl_exp_msg_types.
type msgType uint16

// Message types.
const (
	msgError          msgType = 0x002 // NLMSG_ERROR
	msgDone           msgType = 0x003 // NLMSG_DONE
	msgNew            msgType = 0x100 // IPCTNL_MSG_CT_NEW
	msgGet            msgType = 0x101 // IPCTNL_MSG_CT_GET
	msgGetZero        msgType = 0x103 // IPCTNL_MSG_CT_GET_CTRZERO
	msgDelete         msgType = 0x102 // IPCTNL_MSG_CT_DELETE
	msgGetStatsCPU    msgType = 0x104 // IPCTNL_MSG_CT_GET_STATS_CPU
	msgGetStats       msgType = 0x105 // IPCTNL_MSG_CT_GET_STATS
	msgGetDying       msgType = 0x106 // IPCTNL_MSG_CT_GET_DYING
	msgGetUnconfirmed msgType = 0x107 // IPCTNL_MSG_CT_GET_UNCONFIRMED
	msgExpNew         msgType = 0x200 // IPCTNL_MSG_EXP_NEW
	msgExpGet         msgType = 0x201 // IPCTNL_MSG_EXP_GET
	msgExpDelete      msgType = 0x202 // IPCTNL_MSG_EXP_DELETE
	msgExpGetStatsCPU msgType = 0x203 // IPCTNL_MSG_EXP_GET_STATS_CPU
)

// msgFlags is the set of NLM_F_ bits of a message.
// Source: include/uapi/linux/netlink.h.
type msgFlags uint16

// Message flags.
const (
	flagRequest msgFlags = 0x001 // NLM_F_REQUEST
	flagAck     msgFlags = 0x004 // NLM_F_ACK
	flagEcho    msgFlags = 0x008 // NLM_F_ECHO
	flagCapped  msgFlags = 0x100 // NLM_F_CAPPED, in an answer
	flagAckTLVs msgFlags = 0x200 // NLM_F_ACK_TLVS, in an answer
	flagExcl    msgFlags = 0x200 // NLM_F_EXCL, in a request to make an entry
	flagDump    msgFlags = 0x300 // NLM_F_DUMP, in a request to list
	flagCreate  msgFlags = 0x400 // NLM_F_CREATE
)

// nfVersion values. In a flush, versionFamily makes the kernel obey the
// family; requests have carried an arbitrary family before.
const (
	versionPlain  = 0 // NFNETLINK_V0
	versionFamily = 1 // NFNETLINK_V1
)

// header is struct nlmsghdr without the length.
type header struct {
	typ   msgType
	flags msgFlags
	seq   uint32
}

// beginMessage appends the headers of a request and returns where it starts;
// endMessage completes it.
func beginMessage(b []byte, h header, f Family, version uint8) ([]byte, int) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, uint16(h.typ))
	b = binary.NativeEndian.AppendUint16(b, uint16(h.flags|flagRequest))
	b = binary.NativeEndian.AppendUint32(b, h.seq)
	b = append(b, 0, 0, 0, 0) // nlmsg_pid: the kernel knows
	return append(b, uint8(f), version, 0, 0), start
}

// endMessage writes the length of the message that starts at start.
func endMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// nextMessage takes the first message from a datagram.
func nextMessage(b []byte) (h header, payload, rest []byte, err error) {
	if len(b) < nlHeaderLen {
		return header{}, nil, nil, lengthError("message header", len(b), nlHeaderLen)
	}
	n := binary.NativeEndian.Uint32(b)
	if n < nlHeaderLen || uint64(n) > uint64(len(b)) {
		return header{}, nil, nil, fmt.Errorf("message of %d bytes in %d", n, len(b))
	}
	h = header{
		typ:   msgType(binary.NativeEndian.Uint16(b[4:])),
		flags: msgFlags(binary.NativeEndian.Uint16(b[6:])),
		seq:   binary.NativeEndian.Uint32(b[8:]),
	}
	return h, b[nlHeaderLen:n], b[min(align4(int(n)), len(b)):], nil
}

// attributes returns the payload of a conntrack message behind struct nfgenmsg.
func attributes(payload []byte) ([]byte, error) {
	if len(payload) < nfHeaderLen {
		return nil, lengthError("struct nfgenmsg", len(payload), nfHeaderLen)
	}
	return payload[nfHeaderLen:], nil
}

// Attributes of an extended acknowledgement, enum nlmsgerr_attrs.
const (
	attrAckMsg  attrType = 1 // NLMSGERR_ATTR_MSG
	attrAckOffs attrType = 2 // NLMSGERR_ATTR_OFFS
)

// answer is what NLMSG_ERROR or NLMSG_DONE says; errno 0 is success.
type answer struct {
	errno  syscall.Errno
	text   string
	offset uint32
}

// parseAnswer reads the payload of NLMSG_ERROR or NLMSG_DONE.
func parseAnswer(h header, b []byte) (answer, error) {
	if len(b) < 4 {
		return answer{}, lengthError("struct nlmsgerr", len(b), 4)
	}
	n := int32(binary.NativeEndian.Uint32(b))
	if n > 0 || n < -4095 { // MAX_ERRNO
		return answer{}, fmt.Errorf("errno out of range: %d", n)
	}
	a := answer{errno: syscall.Errno(-n)}
	if h.flags&flagAckTLVs == 0 {
		return a, nil
	}
	skip := 4
	if h.typ == msgError {
		var err error
		if skip, err = echoedLen(h, b); err != nil {
			return answer{}, err
		}
	}
	if err := a.parseTLVs(b[skip:]); err != nil {
		return answer{}, err
	}
	return a, nil
}

// echoedLen tells where the extended acknowledgement begins, behind the
// request or, if that was cut off, behind its header.
func echoedLen(h header, b []byte) (int, error) {
	if len(b) < 4+nlHeaderLen {
		return 0, lengthError("struct nlmsgerr", len(b), 4+nlHeaderLen)
	}
	if h.flags&flagCapped != 0 {
		return 4 + nlHeaderLen, nil
	}
	n := binary.NativeEndian.Uint32(b[4:])
	if n < nlHeaderLen || uint64(n) > uint64(len(b)-4) {
		return 0, errors.New("request in struct nlmsgerr cut off")
	}
	return min(4+align4(int(n)), len(b)), nil
}

// parseTLVs reads the attributes of an extended acknowledgement.
func (a *answer) parseTLVs(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "extended ack")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrAckMsg:
			a.text = parseString(v)
		case attrAckOffs:
			if len(v) != 4 {
				return lengthError("NLMSGERR_ATTR_OFFS", len(v), 4)
			}
			a.offset = binary.NativeEndian.Uint32(v)
		}
	}
	return nil
}
