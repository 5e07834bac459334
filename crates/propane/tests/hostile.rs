//! Files that nobody wrote by hand: each gets one clear answer, soon, and without the memory that it asks for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The address space that a check gets, in KiB: code, libraries and all that it allocates.
const MOST_MEMORY: &str = "65536";
/// The most that is ever said about one file, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;

fn check(root: &Path) -> Output {
    let script = "ulimit -v \"$1\"; exec timeout 20 \"$2\" config check";
    let mut command = Command::new("/bin/sh");
    let command = command.args(["-c", script, "sh", MOST_MEMORY, env!("CARGO_BIN_EXE_propane")]);
    command.env_remove("ARLEN_APP_ROOT").current_dir(root).stdin(Stdio::null()).output().unwrap()
}

fn app() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("config")).unwrap();
    root
}

fn said_of(file: impl FnOnce(&Path)) -> (String, Option<i32>) {
    let root = app();
    file(&root.path().join("config/app.plist"));
    let output = check(root.path());
    assert!(output.stderr.is_empty(), "{:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.len() < LONGEST_ANSWER, "{} bytes", output.stdout.len());
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn said_of_bytes(bytes: &[u8]) -> (String, Option<i32>) {
    said_of(|path| fs::write(path, bytes).unwrap())
}

/// Files with exactly one thing wrong with them, which is said.
#[test]
fn one_clear_error() {
    let deep = 1_000_000;
    let xml = |body: &str| format!("<?xml version=\"1.0\"?><plist version=\"1.0\">{body}</plist>");
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nested arrays", b"(".repeat(deep), "nested deeper than 128"),
        ("nested dictionaries", b"{a=".repeat(deep), "nested deeper than 128"),
        ("nested in a setting", [b"{ port = ".as_slice(), &b"(".repeat(deep)].concat(), "nested deeper than 128"),
        ("nested XML", xml(&"<array>".repeat(500_000)).into_bytes(), "nested deeper than 128"),
        ("nested XML dictionaries", xml(&"<dict><key>a</key>".repeat(200_000)).into_bytes(), "nested deeper than 128"),
        ("nested binary", nested_binary(1_000_000), "larger than 4 MiB"),
        ("a smaller nested binary", nested_binary(400_000), "nested deeper than 128"),
        ("shared binary references", binary_bomb(40), "describes more values than a configuration can need"),
        ("a binary that holds itself", binary_bomb(1), "nested deeper than 128"),
        ("zeros", vec![0; 1 << 20], "expected"),
        ("a zero in a file", b"{ port = 1; host = a\0b; }".to_vec(), "expected ';' or '}'"),
        ("an XML entity bomb", xml_bomb(), "an internal document type"),
        ("too many values", [b"(".as_slice(), &b"a,".repeat(1 << 18), b")"].concat(), "more than 100000 values"),
        ("a comment without end", [b"/*".as_slice(), &b" *".repeat(1 << 18)].concat(), "this comment is never closed"),
        (
            "a text without end",
            [b"\"".as_slice(), &b"a\n".repeat(1 << 18)].concat(),
            "this quoted text is never closed",
        ),
        ("URLs that never end", [b"\"".as_slice(), &b"://a:b/".repeat(100_000)].concat(), "never closed"),
        ("secrets in secrets", [b"\"".as_slice(), &b"token=".repeat(600_000)].concat(), "never closed"),
        ("braces without end", [b"{ secret = ".as_slice(), &b"\" \n".repeat(1 << 18)].concat(), ""),
    ];
    for (what, bytes, message) in table {
        let (said, status) = said_of_bytes(&bytes);
        assert!(said.contains(message), "{what}: {said}");
        assert_eq!(status, Some(2), "{what}: {said}");
        let is_one = said.ends_with("1 file, 1 error, 0 warnings\n");
        assert!(is_one || message.is_empty(), "{what}: {said}");
    }
}

/// Random bytes are no property list, whatever they begin with. The generator is a fixed one, so that a failure stays.
#[test]
fn random_bytes_are_one_error() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    for start in ["", "{", "{ a = ", "bplist00", "<?xml", "<plist>", "\u{feff}", "(", "\""] {
        for length in [1, 20, 1000, 100_000] {
            let mut bytes = start.as_bytes().to_vec();
            bytes.extend((0..length).map(|_| random()));
            let (said, status) = said_of_bytes(&bytes);
            assert_eq!(status, Some(2), "{start}: {said}");
            let errors = said.matches("error[").count();
            assert!(errors == 1, "{start:?} and {length} random bytes: {said}");
        }
    }
}

#[test]
fn a_file_of_100_mb_is_refused_unread() {
    let (said, status) = said_of(|path| {
        let mut file = fs::File::create(path).unwrap();
        let block = b"name = value;\n".repeat(1 << 16);
        (0..110).for_each(|_| file.write_all(&block).unwrap());
    });
    assert!(said.contains("config/app.plist is larger than 4 MiB"), "{said}");
    assert_eq!(status, Some(2));
}

#[test]
fn what_is_no_file_is_not_opened() {
    use std::os::unix::fs::symlink;
    let devices = ["/dev/zero", "/dev/full", "/dev/tty"];
    let mut said: Vec<_> = devices.iter().map(|device| said_of(|path| symlink(device, path).unwrap())).collect();
    said.push(said_of(|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()));
    said.push(said_of(|path| fs::create_dir(path).unwrap()));
    said.push(said_of(|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())));
    for (said, status) in said {
        assert!(said.contains("cannot read config/app.plist: not a regular file"), "{said}");
        assert_eq!(status, Some(2));
    }
    let (said, _) = said_of(|path| symlink("app.plist", path).unwrap());
    assert!(said.contains("cannot read config/app.plist: Too many levels of symbolic links"), "{said}");
    let (said, _) = said_of(|path| symlink("gone", path).unwrap());
    assert!(said.contains("cannot read config/app.plist: a symbolic link that leads nowhere"), "{said}");
}

/// The end of a line of almost 4 MiB: quoted around the mistake, with its true column.
#[test]
fn an_endless_line_is_cut_around_the_mistake() {
    let filling = "\u{e9}".repeat((4 << 20) / 2 - 100);
    let (said, status) = said_of_bytes(format!("{{ name = \"{filling}\"; port = lots; }}").as_bytes());
    let column = "{ name = \"".len() + filling.chars().count() + "\"; port = ".len() + 1;
    assert!(said.contains(&format!("config/app.plist:1:{column}\n")), "{said}");
    assert!(said.contains("; port = lots; }") && said.contains("^^^^ found \"lots\""), "{said}");
    assert!(said.len() < 1000, "{said}");
    assert_eq!(status, Some(1));
}

/// As many mistakes as a file can hold: the first are shown, all are counted.
#[test]
fn a_hundred_thousand_mistakes_are_counted() {
    let keys = (0..99_000).map(|index| format!("k{index} = ;")).collect::<Vec<_>>().concat();
    let (said, _) = said_of_bytes(format!("{{ propaneAccessories = {{ {keys} }}; }}").as_bytes());
    assert!(said.ends_with("1 file, 0 errors, 198000 warnings\n"), "{}", &said[said.len() - 200..]);
    let long = "k".repeat(1 << 20);
    let (said, _) = said_of_bytes(format!("{{ cluster = {{ {long} = 1; {long} = 2; }}; }}").as_bytes());
    assert!(said.len() < 4000, "{said}");
}

/// Arrays in arrays, each in the next object of the table.
fn nested_binary(depth: usize) -> Vec<u8> {
    let mut objects = vec![];
    for index in 0..depth {
        let next = u32::try_from(index + 1).unwrap().to_be_bytes();
        objects.push([&[0xa1], &next[..]].concat());
    }
    objects.push(vec![0x50]);
    binary(&objects, 4)
}

/// Each array holds the next one twice; a single one holds itself.
fn binary_bomb(levels: usize) -> Vec<u8> {
    let next = |index: usize| u8::try_from(if levels == 1 { 0 } else { index + 1 }).unwrap();
    let mut objects: Vec<_> = (0..levels).map(|index| vec![0xa2, next(index), next(index)]).collect();
    objects.push(vec![0x51, b'x']);
    binary(&objects, 1)
}

fn binary(objects: &[Vec<u8>], reference_size: u8) -> Vec<u8> {
    let mut bytes = b"bplist00".to_vec();
    let mut offsets = Vec::new();
    for object in objects {
        offsets.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        bytes.extend(object);
    }
    let offsets_at = bytes.len() as u64;
    bytes.extend(offsets);
    bytes.extend([0, 0, 0, 0, 0, 0, 4, reference_size]);
    bytes.extend((objects.len() as u64).to_be_bytes());
    bytes.extend(0_u64.to_be_bytes());
    bytes.extend(offsets_at.to_be_bytes());
    bytes
}

fn xml_bomb() -> Vec<u8> {
    let entity = |level: usize| format!("<!ENTITY a{level} \"{}\">", format!("&a{};", level - 1).repeat(10));
    let entities = (1..30).map(entity).collect::<Vec<_>>().concat();
    let start = "<?xml version=\"1.0\"?><!DOCTYPE plist [<!ENTITY a0 \"lol\">";
    format!("{start}{entities}]><plist><string>&a29;</string></plist>").into_bytes()
}

/// An app root and an environment with a name that is no text.
#[test]
fn names_that_are_no_text_are_answered() {
    let root = app();
    fs::write(root.path().join("config/app.plist"), "{}").unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"st\xffrange\n");
    for flag in ["--env", "--app-root", "--host"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_propane"));
        let output = command.args(["config", "check", flag]).arg(strange).current_dir(root.path()).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{flag}: {output:?}");
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty());
    }
}
