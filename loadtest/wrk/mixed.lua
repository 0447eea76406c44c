-- Two GETs and one POST in turn; the origin's /__stats counts what was executed twice.
local count = 0
local run = tostring(os.time())
local body = string.rep("x", 100)

request = function()
    count = count + 1
    local headers = { ["x-test-id"] = run .. "-" .. count }
    if count % 3 == 0 then
        return wrk.format("POST", "/bytes/100", headers, body)
    end
    return wrk.format("GET", "/bytes/100", headers)
end

done = function(summary)
    local e = summary.errors
    io.write(string.format("errors: %d\n", e.connect + e.read + e.write + e.status + e.timeout))
end
