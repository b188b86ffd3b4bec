package conntrack

import (
	"fmt"
	"math"
	"time"
)

// Members of CTA_TIMESTAMP, enum ctattr_tstamp.
const (
	attrTimestampStart attrType = 1 // CTA_TIMESTAMP_START
	attrTimestampStop  attrType = 2 // CTA_TIMESTAMP_STOP
)

// parseTimestamp reads CTA_TIMESTAMP, nanoseconds since 1970.
func (f *Flow) parseTimestamp(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_TIMESTAMP")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrTimestampStart:
			f.Has |= AttrStart
			f.Start, err = parseTime(v, "CTA_TIMESTAMP_START")
		case attrTimestampStop:
			f.Has |= AttrStop
			f.Stop, err = parseTime(v, "CTA_TIMESTAMP_STOP")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseTime(v []byte, name string) (time.Time, error) {
	n, err := parseUint64(v, name)
	if err != nil {
		return time.Time{}, err
	}
	if n > math.MaxInt64 {
		return time.Time{}, fmt.Errorf("%s: %d ns is out of range", name, n)
	}
	return time.Unix(0, int64(n)).UTC(), nil
}

// appendTimestamp appends CTA_TIMESTAMP if the flow has one of the times.
func (f *Flow) appendTimestamp(b []byte) []byte {
	if f.Has&(AttrStart|AttrStop) == 0 {
		return b
	}
	b, nest := beginNest(b, attrTimestamp)
	if f.Has&AttrStart != 0 {
		b = appendUint64(b, attrTimestampStart, uint64(f.Start.UnixNano()))
	}
	if f.Has&AttrStop != 0 {
		b = appendUint64(b, attrTimestampStop, uint64(f.Stop.UnixNano()))
	}
	return endNest(b, nest)
}
