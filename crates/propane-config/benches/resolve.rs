//! How fast files are read and configurations resolved. `cargo bench -p propane-config`.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and its entry points are made by macros"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use propane_config::{Args, Flag, Inputs, SETTINGS, document, load};

fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/apps").join(name)
}

/// A real file's text, over and over: about as many values as are read from one file. Without GNUstep's typed values, which
/// not every peer knows.
fn large_file() -> String {
    let app = std::fs::read_to_string(app("layered").join("config/app.plist")).unwrap();
    let app = app.replace("<*I3>", "3").replace("<*BY>", "YES");
    let copies = (document::MAX_BYTES / 4) / app.len();
    let copies = (0..copies).map(|index| format!("app{index} = {};\n", app.trim()));
    format!("{{\n{}}}\n", copies.collect::<Vec<_>>().concat())
}

fn reading(criterion: &mut Criterion) {
    let text = large_file();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("openstep", |bench| bench.iter(|| document::read(black_box(text.as_bytes())).unwrap()));
    group.bench_function("plist_crate", |bench| {
        bench.iter(|| plist::Value::from_reader_ascii(black_box(text.as_bytes())).unwrap());
    });
    group.bench_function("openstep_plist_crate", |bench| {
        bench.iter(|| openstep_plist::Plist::parse(black_box(&text)).unwrap());
    });
    group.finish();
}

fn inputs(app_root: PathBuf) -> Inputs {
    let env = BTreeMap::from([("ARLEN_PORT".into(), "4000".into()), ("PATH".into(), "/bin".into())]);
    let flags = vec![Flag { name: "workers".into(), value: "12".into(), index: 1 }];
    let args = Args { flags, ..Args::default() };
    Inputs { args, env, cwd: app_root, hostname: Some("node-1".into()), ..Inputs::default() }
}

fn resolving(criterion: &mut Criterion) {
    assert!(SETTINGS.len() > 40);
    let inputs = inputs(app("layered"));
    criterion.bench_function("resolve/all rows of a layered app", |bench| bench.iter(|| load(black_box(&inputs))));
    let inputs = self::inputs(app("seed"));
    criterion.bench_function("resolve/with warnings", |bench| bench.iter(|| load(black_box(&inputs))));
}

/// The whole program, if a release build of it is there to be measured.
fn printing(criterion: &mut Criterion) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| app("../../target"), PathBuf::from);
    let program = target.join("release/propane");
    if !program.is_file() {
        eprintln!("skipping the whole program: build it first with `cargo build --release -p propane`");
        return;
    }
    criterion.bench_function("process/propane config print", |bench| {
        bench.iter(|| {
            let output = Command::new(&program).args(["config", "print"]).current_dir(app("layered")).output().unwrap();
            assert!(output.status.success());
        });
    });
}

criterion_group!(benches, reading, resolving, printing);
criterion_main!(benches);
