# The Rack app that puma serves: it names the process that answers.
run ->(_environment) { [200, { "content-type" => "text/plain" }, ["#{Process.pid}\n"]] }
