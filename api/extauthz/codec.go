package extauthz

import (
	"errors"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec reads questions and writes answers. Whatever else is said on a connection,
// it leaves to the generated types.
type codec struct{ encoding.CodecV2 }

// answer is a CheckResponse, as it is sent.
type answer struct{ message mem.Buffer }

var errMessage = errors.New("extauthz: the question cannot be read")

// Unmarshal reads a message.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*asked)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	a.done()
	a.held = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return a.slow(a.held.ReadOnlyData())
}

// Marshal writes a message.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if a, ok := v.(answer); ok {
		return mem.BufferSlice{a.message}, nil
	}
	return c.CodecV2.Marshal(v)
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
