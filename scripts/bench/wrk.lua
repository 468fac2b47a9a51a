-- Visitors of the encrypted scenarios: 127.0.0.1 under any name, so that SNI is what routes; figures as one JSON line.
wrk.resolve = function(_, service)
  wrk.addrs = wrk.lookup("127.0.0.1", service)
end

done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '{"count": %d, "seconds": %.6f, "bytes": %d, "failed": %d, "p50": %.6f, "p99": %.6f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
