package check

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"inlinefs/ondisk"
)

// textOf is what an error of ondisk says without the object that it names.
func textOf(err error) string {
	if e, ok := errors.AsType[*ondisk.CorruptError](err); ok {
		return e.What
	}
	return err.Error()
}

func utoa(v uint32) string { return strconv.FormatUint(uint64(v), 10) }

// indexZero is the index of the first zero byte, len(b) when there is none.
func indexZero(b []byte) int {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return i
	}
	return len(b)
}

// rangeText is "group 3: blocks 7 to 9: text".
func rangeText(object string, n uint32, what string, from, to uint64, text string) string {
	if from == to {
		return fmt.Sprintf("%s %d: %s %d: %s", object, n, what, from, text)
	}
	return fmt.Sprintf("%s %d: %s %d to %d: %s", object, n, what, from, to, text)
}
