-- wrk -s wrk.lua URL -- BODY CONTENT_TYPE [NAME:VALUE ...]
-- Sends the file BODY with each request, and prints one JSON object at the end.
-- With BENCH_VARY=1 each request has an X-Request-Id of its own, so that no two request heads are the same.

local threads = 0

function setup(thread)
   thread:set("thread_number", threads)
   threads = threads + 1
end

local before, after
local count = 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   file:close()
   wrk.headers["Content-Type"] = args[2]
   for i = 3, #args do
      local name, value = args[i]:match("^([^:]+):(.*)$")
      wrk.headers[name] = value
   end
   if os.getenv("BENCH_VARY") == "1" then
      wrk.headers["X-Request-Id"] = "SPLITHERE"
      local text = wrk.format()
      local first, last = text:find("SPLITHERE", 1, true)
      before, after = text:sub(1, first - 1) .. thread_number .. "-", text:sub(last + 1)
      request = function()
         count = count + 1
         return before .. string.format("%012d", count) .. after
      end
      wrk.request = request
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\n{"duration_us": %d, "requests": %d, "bytes": %d, "connect": %d, "read": %d, "write": %d, "status": %d, ' ..
      '"timeout": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d}\n',
      summary.duration, summary.requests, summary.bytes, errors.connect, errors.read, errors.write, errors.status,
      errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
