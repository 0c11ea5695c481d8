package gate

import (
	"testing"
)

// The address is what the gateway in front added: the last there is. What is no
// address is none, and nothing is recorded unless that is configured.
func TestRecordedClientIP(t *testing.T) {
	for name, tt := range map[string]struct {
		forwarded, real []string
		want            string
	}{
		"nothing":                     {nil, nil, ""},
		"one":                         {[]string{"192.0.2.1"}, nil, "192.0.2.1"},
		"the last of several":         {[]string{"198.51.100.9, 10.0.0.1 ,192.0.2.1"}, nil, "192.0.2.1"},
		"the last line":               {[]string{"192.0.2.9", "10.0.0.1, 192.0.2.1"}, nil, "192.0.2.1"},
		"before the other header":     {[]string{"192.0.2.1"}, []string{"192.0.2.9"}, "192.0.2.1"},
		"the other header":            {nil, []string{"192.0.2.1"}, "192.0.2.1"},
		"no address hides the other":  {[]string{"192.0.2.9, unknown"}, []string{"192.0.2.1"}, ""},
		"a port hides the other":      {[]string{"192.0.2.9:4711"}, []string{"192.0.2.1"}, ""},
		"empty, then one":             {[]string{""}, []string{" 192.0.2.1 "}, "192.0.2.1"},
		"with a port":                 {[]string{"192.0.2.1:4711"}, nil, ""},
		"a name":                      {[]string{"client.example"}, []string{"localhost"}, ""},
		"a key":                       {[]string{"kl_live_123"}, nil, ""},
		"one text for one address":    {[]string{"2001:DB8:0:0::1"}, nil, "2001:db8::1"},
		"a zone is another machine's": {[]string{"fe80::1%eth0"}, nil, "fe80::1"},
		"mapped":                      {[]string{"::ffff:192.0.2.1"}, nil, "192.0.2.1"},
	} {
		r := &Request{APIKey: "x", ForwardedFor: tt.forwarded, RealIP: tt.real}
		if q, _, err := (&Gate{cfg: Config{RecordClientIP: true}}).Asks(r); err != nil || q.Context.ClientIP != tt.want {
			t.Errorf("%s: %q, %v, want %q", name, q.Context.ClientIP, err, tt.want)
		}
		if q, _, err := (&Gate{}).Asks(r); err != nil || q.Context.ClientIP != "" {
			t.Errorf("%s: %q, %v though it is not configured", name, q.Context.ClientIP, err)
		}
	}
}
