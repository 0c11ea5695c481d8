-- The action lua.keyledger asks keyledger about a request. It lets it pass with
-- txn.keyledger set to "allowed" and the verdict in headers, or it answers. Where to
-- ask stands in proc.keyledger, as ipv4@ADDRESS:PORT or unix@PATH, and what to ask
-- beside the method and path, in txn.keyledger_query.

-- What the application is told.
local told = {
  "x-keyledger-code", "x-keyledger-key-id", "x-keyledger-organization", "x-keyledger-profile",
  "x-keyledger-permission", "x-keyledger-permissions", "x-keyledger-scope-checked", "x-keyledger-position",
}

-- What the client is told when it is refused.
local refusal = { "content-type", "www-authenticate", "retry-after", "x-keyledger-code" }

-- Without an answer in so many milliseconds the request is refused. HAProxy tries four
-- times.
local patience = 500

-- ask returns keyledger's answer. Nothing of the client's reaches it but its key and
-- its User-Agent, so that the client cannot word the question.
local function ask(txn)
  local sent = txn.http:req_get_headers()
  local question = {
    ["x-forwarded-method"] = { txn.sf:method() },
    ["x-forwarded-uri"] = { txn.sf:pathq() },
    ["x-forwarded-for"] = { txn.sf:src() },
  }
  for _, name in ipairs({ "authorization", "x-api-key", "user-agent" }) do
    question[name] = sent[name]
  end
  -- Where it goes is said by dst. An address in the URL keeps HAProxy from resolving
  -- a name first.
  local url = "http://127.0.0.1/v1/authorize"
  local query = txn:get_var("txn.keyledger_query")
  if query then
    url = url .. "?" .. query
  end
  return core.httpclient():get({ url = url, dst = txn:get_var("proc.keyledger"), headers = question, timeout = patience })
end

-- refuse answers the client. What is no answer of keyledger's is no verdict.
local function refuse(txn, answer)
  local headers = answer.headers or {}
  local kind = headers["content-type"]
  local reply = txn:reply()
  if not kind or kind[0] ~= "application/problem+json" then
    reply:set_status(503)
    txn:done(reply)
  end
  reply:set_status(answer.status)
  for _, name in ipairs(refusal) do
    if headers[name] then
      reply:add_header(name, headers[name][0])
    end
  end
  reply:set_body(answer.body)
  txn:done(reply)
end

core.register_action("keyledger", { "http-req" }, function(txn)
  local answer = ask(txn)
  if answer.status ~= 200 then
    refuse(txn, answer)
  end
  for _, name in ipairs(told) do
    if answer.headers[name] then
      txn.http:req_set_header(name, answer.headers[name][0])
    end
  end
  txn:set_var("txn.keyledger", "allowed")
end)
