package extauthz

import (
	"encoding/binary"
	"unicode/utf8"
	"unsafe"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// The numbers of the fields that are read of a CheckRequest. Everything else is
// passed over.
//
//	CheckRequest      1 attributes
//	AttributeContext  1 source, 4 request, 10 context_extensions
//	Peer              1 address
//	Address           1 socket_address, 2 pipe, 3 envoy_internal_address (one of these)
//	SocketAddress     2 address
//	Request           2 http
//	HttpRequest       1 id, 2 method, 3 headers, 4 path, 13 header_map
//	HeaderMap         1 headers
//	HeaderValue       1 key, 2 value, 3 raw_value
//
// Two of one message are one with the fields of both, the later ones counting: reading
// them in turn comes to that by itself.

// field is one field of a message: its number, and its bytes if it is of a type that
// has any.
type field struct {
	number int
	bytes  []byte
	// other says that it is of another type: a number.
	other bool
}

// next cuts the first field off a message. What is odd in any way, if only for being
// written in a form that nobody writes, is left to the generated types.
func next(b []byte) (f field, rest []byte, ok bool) {
	tag, n := varint(b)
	if n == 0 || tag>>3 == 0 || tag>>3 > 1<<16 {
		return f, nil, false
	}
	f.number = int(tag >> 3)
	b = b[n:]
	switch tag & 7 {
	case 0:
		_, n = varint(b)
		if n == 0 {
			return f, nil, false
		}
		f.other = true
		return f, b[n:], true
	case 1, 5:
		size := 4
		if tag&7 == 1 {
			size = 8
		}
		if len(b) < size {
			return f, nil, false
		}
		f.other = true
		return f, b[size:], true
	case 2:
		size, n := varint(b)
		if n == 0 || size > uint64(len(b)-n) {
			return f, nil, false
		}
		f.bytes = b[n : n+int(size)]
		return f, b[n+int(size):], true
	default:
		return f, nil, false
	}
}

// varint reads a number; n is 0 when there is none.
func varint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	v, n = binary.Uvarint(b)
	return v, max(n, 0)
}

// walk gives the fields of a message to a function, and returns false as soon as that
// does or the message is odd.
func walk(b []byte, each func(number int, bytes []byte) bool, numbers uint32) bool {
	for len(b) > 0 {
		f, rest, ok := next(b)
		if !ok {
			return false
		}
		b = rest
		if f.number > 31 || numbers&(1<<f.number) == 0 {
			continue
		}
		if f.other || !each(f.number, f.bytes) {
			return false
		}
	}
	return true
}

// text returns bytes as a text that lies where they do.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// fast reads a question in one pass, and returns false when that is for the generated
// types to do. Its texts lie in the message.
func (a *asked) fast(message []byte) bool {
	return walk(message, func(_ int, b []byte) bool { return a.fastAttributes(b) }, 1<<1)
}

func (a *asked) fastAttributes(b []byte) bool {
	return walk(b, func(number int, b []byte) bool {
		switch number {
		case 1:
			return walk(b, func(_ int, b []byte) bool { return a.fastAddress(b) }, 1<<1)
		case 4:
			return walk(b, func(_ int, b []byte) bool { return a.fastHTTP(b) }, 1<<2)
		default:
			name, value, ok := entry(b)
			if !ok || !utf8.Valid(name) || !utf8.Valid(value) {
				return false
			}
			a.extension(text(name), text(value))
			return true
		}
	}, 1<<1|1<<4|1<<10)
}

func (a *asked) fastAddress(b []byte) bool {
	return walk(b, func(number int, b []byte) bool {
		if number != 1 {
			a.source = ""
			return true
		}
		return walk(b, func(_ int, b []byte) bool {
			a.source = text(b)
			return utf8.Valid(b)
		}, 1<<2)
	}, 1<<1|1<<2|1<<3)
}

func (a *asked) fastHTTP(b []byte) bool {
	return walk(b, func(number int, b []byte) bool {
		switch number {
		case 1:
			a.id = text(b)
		case 2:
			a.method = text(b)
		case 3:
			return a.fastNamed(b)
		case 4:
			a.path = text(b)
		default:
			return walk(b, func(_ int, b []byte) bool { return a.fastListed(b) }, 1<<1)
		}
		return utf8.Valid(b)
	}, 1<<1|1<<2|1<<3|1<<4|1<<13)
}

// fastNamed reads a header of the map.
func (a *asked) fastNamed(b []byte) bool {
	name, value, ok := entry(b)
	if !ok {
		return false
	}
	h, mine := a.header(text(name))
	if !mine {
		return true
	}
	if h == nil {
		return utf8.Valid(name)
	}
	h.name(text(value))
	return utf8.Valid(value)
}

// fastListed reads a header of the list.
func (a *asked) fastListed(b []byte) bool {
	var name, value, raw []byte
	if !walk(b, func(number int, b []byte) bool {
		switch number {
		case 1:
			name = b
		case 2:
			value = b
		default:
			raw = b
		}
		return true
	}, 1<<1|1<<2|1<<3) {
		return false
	}
	h, mine := a.header(text(name))
	if !mine {
		return true
	}
	if h == nil {
		return utf8.Valid(name)
	}
	if !utf8.Valid(value) {
		return false
	}
	if len(raw) > 0 {
		value = raw
	}
	h.list(text(value))
	return true
}

// entry reads an entry of a map of texts.
func entry(b []byte) (name, value []byte, ok bool) {
	ok = walk(b, func(number int, b []byte) bool {
		if number == 1 {
			name = b
		} else {
			value = b
		}
		return true
	}, 1<<1|1<<2)
	return name, value, ok
}

// slow reads a question with the generated types.
func (a *asked) slow(message []byte) error {
	var r authv3.CheckRequest
	if err := proto.Unmarshal(message, &r); err != nil {
		// What it says may hold what was sent.
		return errMessage
	}
	a.from(&r)
	return nil
}
