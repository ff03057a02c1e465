-- wrk … -- SEED TASKS AUTHORS TAGS METHOD PATH [BODY]: keys of random rows in place of TASK and AUTHOR, and a page in place of PAGE
-- and SKIP; see cases.py.
-- TAGS is a file with the tags of rows, or of one page, for conditional requests, or "-". With the method MIXED the path is a
-- line for each part: its share in percent, its method and its path; only writes have the body.

local tasks, authors, body
local tags, parts = {}, {}

local function fill(text, task, author, page)
   return text and text:gsub("TASK", task):gsub("AUTHOR", author):gsub("PAGE", page):gsub("SKIP", (page - 1) * 20)
end

function init(args)
   math.randomseed(tonumber(args[1]))
   tasks, authors, body = tonumber(args[2]), tonumber(args[3]), args[7]
   if args[4] ~= "-" then
      for tag in io.lines(args[4]) do
         tags[#tags + 1] = tag
      end
   end
   if args[5] == "MIXED" then
      local upto = 0
      for share, method, path in args[6]:gmatch("(%d+) (%u+) ([^\n]+)") do
         upto = upto + tonumber(share)
         parts[#parts + 1] = {upto = upto, method = method, path = path}
      end
   else
      parts[1] = {upto = 100, method = args[5], path = args[6]}
   end
   for _, part in ipairs(parts) do
      part.headers = part.method ~= "GET" and {["Content-Type"] = "application/json"} or {}
      part.body = part.method ~= "GET" and body or nil
   end
end

function request()
   local number = math.random(tasks)
   local task = string.format("00000000-0000-7000-8000-%012x", number)
   local author = string.format("00000000-0000-7000-8000-%012x", math.random(authors))
   local page = 1801 + number % 400
   local part = parts[1]
   if #parts > 1 then
      local drawn = math.random(100)
      for _, each in ipairs(parts) do
         part = each
         if drawn <= each.upto then
            break
         end
      end
   end
   if #tags > 0 then
      part.headers["If-None-Match"] = tags[(number - 1) % #tags + 1]
   end
   return wrk.format(part.method, (fill(part.path, task, author, page)), part.headers, (fill(part.body, task, author, page)))
end

function done(summary, latency, _)
   local errors = summary.errors
   local failed = errors.status + errors.connect + errors.read + errors.write
   io.write(string.format("result %d %d %d %d %d\n",
      summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
