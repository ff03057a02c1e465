-- wrk … -- SEED TASKS AUTHORS METHOD PATH [BODY]: keys of random rows in place of TASK and AUTHOR; see cases.py.

local tasks, authors, method, path, body

local function fill(text, task, author)
   return text and text:gsub("TASK", task):gsub("AUTHOR", author)
end

function init(args)
   math.randomseed(tonumber(args[1]))
   tasks, authors, method, path, body = tonumber(args[2]), tonumber(args[3]), args[4], args[5], args[6]
   if body then
      wrk.headers["Content-Type"] = "application/json"
   end
end

function request()
   local task = string.format("00000000-0000-7000-8000-%012x", math.random(tasks))
   local author = string.format("00000000-0000-7000-8000-%012x", math.random(authors))
   return wrk.format(method, (fill(path, task, author)), nil, (fill(body, task, author)))
end

function done(summary, latency, _)
   local errors = summary.errors
   local failed = errors.status + errors.connect + errors.read + errors.write
   io.write(string.format("result %d %d %d %d %d\n",
      summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
