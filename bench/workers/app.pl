# The Mojolicious app that hypnotoad serves: it names the process that answers.
use Mojolicious::Lite -signatures;

app->log->level('fatal');
app->config(
  hypnotoad => {listen => [$ENV{BENCH_LISTEN}], workers => $ENV{BENCH_WORKERS}, pid_file => $ENV{BENCH_PID_FILE}});
get '/healthz' => sub ($c) { $c->render(text => "$$\n") };
app->start;
