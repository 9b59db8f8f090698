-- Sends what is in a file as bodies of POSTs, one after another, and reports as one line of JSON: its lines, or tensors of
-- the Open Inference Protocol, of which each has BODY_BYTES, the first JSON_BYTES of them JSON.
-- Usage: wrk -s rotate.lua URL -- FILE [BODY_BYTES JSON_BYTES]

local requests = {}
local next_request = 0

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  if args[2] then
    headers = { ["Content-Type"] = "application/octet-stream", ["Inference-Header-Content-Length"] = args[3] }
  end
  local file = io.open(args[1], "rb")
  local body = file:read(tonumber(args[2]) or "*l")
  while body do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
    body = file:read(tonumber(args[2]) or "*l")
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    'result {"requests":%d,"duration_us":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"p999_us":%d,"errors":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
