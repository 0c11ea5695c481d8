package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"
)

// keyLabel is the label of all of this program's keys in a token.
const keyLabel = "keyledger-kek"

const (
	ivBytes, tagBits = 12, 128
	// maxKeys bounds how many keys are looked at: one for each rotation since the
	// last was destroyed.
	maxKeys = 1024
)

// errNoKey says that the token has no such key.
var errNoKey = errors.New("the token has no such key")

// token is a PKCS #11 token in which somebody has logged in.
type token struct {
	lib  *pkcs11.Ctx
	slot uint
	// login is the session that keeps the user logged in. Each operation has one of
	// its own, since a session does one at a time.
	login pkcs11.SessionHandle
}

// open logs in to the token of a label.
func open(module, label, pin string) (*token, error) {
	lib := pkcs11.New(module)
	if lib == nil {
		return nil, fmt.Errorf("%s is no PKCS #11 library", module)
	}
	t := &token{lib: lib}
	if err := lib.Initialize(); err != nil {
		lib.Destroy()
		return nil, fmt.Errorf("initialize: %w", err)
	}
	if err := t.logIn(label, pin); err != nil {
		return nil, errors.Join(err, t.end())
	}
	return t, nil
}

func (t *token) logIn(label, pin string) error {
	slots, err := t.lib.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("list slots: %w", err)
	}
	i := slices.IndexFunc(slots, func(slot uint) bool {
		info, err := t.lib.GetTokenInfo(slot)
		return err == nil && info.Label == label
	})
	if i < 0 {
		return fmt.Errorf("there is no token of the label %q", label)
	}
	t.slot = slots[i]
	if t.login, err = t.session(); err != nil {
		return err
	}
	if err := t.lib.Login(t.login, pkcs11.CKU_USER, pin); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return nil
}

// close logs out.
func (t *token) close() error {
	return errors.Join(t.lib.Logout(t.login), t.lib.CloseSession(t.login), t.end())
}

func (t *token) end() error {
	defer t.lib.Destroy()
	return t.lib.Finalize()
}

func (t *token) session() (pkcs11.SessionHandle, error) {
	s, err := t.lib.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return 0, fmt.Errorf("open a session: %w", err)
	}
	return s, nil
}

// within runs an operation in a session of its own.
func (t *token) within(do func(pkcs11.SessionHandle) error) error {
	s, err := t.session()
	if err != nil {
		return err
	}
	return errors.Join(do(s), t.lib.CloseSession(s))
}

// find returns the keys of an id, or all of this program's.
func (t *token) find(s pkcs11.SessionHandle, id []byte) ([]pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, keyLabel),
	}
	if id != nil {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	if err := t.lib.FindObjectsInit(s, template); err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	found, _, err := t.lib.FindObjects(s, maxKeys)
	return found, errors.Join(err, t.lib.FindObjectsFinal(s))
}

// key returns the key of an id.
func (t *token) key(s pkcs11.SessionHandle, id string) (pkcs11.ObjectHandle, error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) == 0 {
		return 0, errNoKey
	}
	found, err := t.find(s, raw)
	if err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, errNoKey
	}
	return found[0], nil
}

// keys returns the ids of all keys, the one that encrypts last.
func (t *token) keys() (ids []string, err error) {
	err = t.within(func(s pkcs11.SessionHandle) error {
		found, err := t.find(s, nil)
		if err != nil {
			return err
		}
		for _, key := range found {
			id, err := t.lib.GetAttributeValue(s, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
			if err != nil {
				return fmt.Errorf("read a key's id: %w", err)
			}
			ids = append(ids, hex.EncodeToString(id[0].Value))
		}
		return nil
	})
	slices.Sort(ids)
	return ids, err
}

// current is the id of the key that encrypts.
func (t *token) current() (string, error) {
	ids, err := t.keys()
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		return "", errNoKey
	}
	return ids[len(ids)-1], nil
}

// rotate has the token draw a key that never leaves it. Ids begin with the time, so
// that the youngest sorts last, and end with what makes them differ for ever.
func (t *token) rotate() (string, error) {
	id := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	var random [8]byte
	rand.Read(random[:])
	id = append(id, random[:]...)
	err := t.within(func(s pkcs11.SessionHandle) error {
		_, err := t.lib.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, keyLabel),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("draw a key: %w", err)
	}
	return hex.EncodeToString(id), nil
}

// destroy destroys a key.
func (t *token) destroy(id string) error {
	return t.within(func(s pkcs11.SessionHandle) error {
		key, err := t.key(s, id)
		if err != nil {
			return err
		}
		return t.lib.DestroyObject(s, key)
	})
}

// encrypt encrypts with the youngest key, by AES-GCM.
func (t *token) encrypt(plain []byte) (id string, out []byte, err error) {
	if id, err = t.current(); err != nil {
		return "", nil, err
	}
	err = t.within(func(s pkcs11.SessionHandle) error {
		key, err := t.key(s, id)
		if err != nil {
			return err
		}
		iv, err := t.lib.GenerateRandom(s, ivBytes)
		if err != nil {
			return fmt.Errorf("draw an initialization vector: %w", err)
		}
		params := pkcs11.NewGCMParams(iv, nil, tagBits)
		defer params.Free()
		if err := t.lib.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
		sealed, err := t.lib.Encrypt(s, plain)
		if err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
		// Some tokens draw their own instead of the one that they were given.
		out = append(params.IV(), sealed...)
		return nil
	})
	return id, out, err
}

// decrypt decrypts what a key encrypted.
func (t *token) decrypt(id string, sealed []byte) (plain []byte, err error) {
	if len(sealed) < ivBytes+tagBits/8 {
		return nil, pkcs11.Error(pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE)
	}
	err = t.within(func(s pkcs11.SessionHandle) error {
		key, err := t.key(s, id)
		if err != nil {
			return err
		}
		params := pkcs11.NewGCMParams(sealed[:ivBytes], nil, tagBits)
		defer params.Free()
		if err := t.lib.DecryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
			return fmt.Errorf("decrypt: %w", err)
		}
		if plain, err = t.lib.Decrypt(s, sealed[ivBytes:]); err != nil {
			return fmt.Errorf("decrypt: %w", err)
		}
		return nil
	})
	return plain, err
}
