-- Answers of one size: wrk … -- 1048576
init = function(args)
    wrk.path = "/bytes/" .. (args[1] or "65536")
end

done = function(summary)
    local e = summary.errors
    io.write(string.format("errors: %d\n", e.connect + e.read + e.write + e.status + e.timeout))
    io.write(string.format("%.1f MB/s\n", summary.bytes / summary.duration))
end
