-- Sends the lines of a file as bodies of POSTs, one after another, with a new number wherever `@N` stands, and reports as
-- one line of JSON.
-- Usage: wrk -s count.lua URL -- FILE

local bodies = {}
local count = 0
-- Ten digits, so that every run of the script sends other numbers than the last.
local first = (os.time() % 80000 + 10000) * 100000

function init(args)
  for body in io.lines(args[1]) do
    bodies[#bodies + 1] = body
  end
end

function request()
  count = count + 1
  local body = bodies[count % #bodies + 1]:gsub("@N", string.format("%010d", first + count))
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    'result {"requests":%d,"duration_us":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"p999_us":%d,"errors":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
