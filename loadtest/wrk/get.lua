-- 100 bytes over keep-alive.
wrk.path = "/bytes/100"

done = function(summary)
    local e = summary.errors
    io.write(string.format("errors: %d\n", e.connect + e.read + e.write + e.status + e.timeout))
end
