use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { line: 64, head: 256 };

/// What became of a stream: the bytes that passed, the heads among them, and where it stands.
type Outcome = (Vec<u8>, u64, Place);

/// Offers a stream in pieces that end at `cuts`, as the connection does.
fn offer(stream: &[u8], cuts: &[usize]) -> Outcome {
    let mut guard = Guard::new(LIMITS);
    let (mut passed, mut heads, mut held) = (Vec::new(), 0, Vec::new());
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        held.extend_from_slice(&stream[from..to]);
        from = to;
        let admitted = guard.admit(&mut held);
        passed.extend(held.drain(..admitted.bytes));
        heads += admitted.heads;
    }
    (passed, heads, guard.place())
}

fn whole(stream: &str) -> Outcome {
    offer(stream.as_bytes(), &[])
}

#[test]
fn requests_pass_one_after_the_other() {
    let rows: [(&str, u64); 9] = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET / HTTP/1.0\r\n\r\n", 1),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            2,
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET http://a/x?y HTTP/1.1\r\nHost: a\r\nX: ä\t!\r\nEmpty:\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\nhOsT: a\r\n\r\n", 1),
    ];
    for (stream, heads) in rows {
        assert_eq!(whole(stream), (stream.as_bytes().to_vec(), heads, Place::Head), "{stream:?}");
    }
}

#[test]
fn heads_that_can_be_read_in_two_ways_do_not_pass() {
    let bad = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / b HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\x01T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fffd}",
        "nonsense\r\n\r\n",
        "\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for stream in bad {
        assert_eq!(whole(stream), (vec![], 0, Place::BadHead(Fault::Malformed)), "{stream:?}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    let place = |host: &str| whole(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).2;
    for host in
        ["", "a", "a:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:80", "a_b.example", "a%20b", "xn--a", "a,b;c='1'"]
    {
        assert_eq!(place(host), Place::Head, "{host:?}");
    }
    for host in [
        "a b", "a\tb", "a/b", "a@b", "a:x", "a:80:80", "http://a", "a?b", "a#b", "a\\b", "a\"", "<a>", "ä", "[::1",
        "[]", "::1", "[::1]a", "[::1]80", "[a/b]",
    ] {
        assert_eq!(place(host), Place::BadHead(Fault::Malformed), "{host:?}");
    }
}

#[test]
fn heads_over_the_limits_do_not_pass() {
    let line =
        |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - "GET / HTTP/1.1".len()));
    assert_eq!(whole(&line(64)).2, Place::Head);
    assert_eq!(whole(&line(65)).2, Place::BadHead(Fault::HeadTooLarge));
    assert_eq!(whole(&"x".repeat(66)).2, Place::BadHead(Fault::HeadTooLarge), "without waiting for its end");
    let head = |length: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        frame.replace("X: ", &format!("X: {}", "y".repeat(length - frame.len())))
    };
    assert_eq!(whole(&head(256)).2, Place::Head);
    assert_eq!(whole(&head(257)).2, Place::BadHead(Fault::HeadTooLarge));
    assert_eq!(whole(&head(300)[..258]).2, Place::BadHead(Fault::HeadTooLarge), "without waiting for its end");
}

#[test]
fn more_fields_than_the_parser_takes_are_too_many() {
    let limits = HeadLimits { line: 64, head: 1 << 16 };
    let head = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(fields - 1));
    let place = |fields| {
        let mut guard = Guard::new(limits);
        guard.admit(head(fields).into_bytes().as_mut_slice());
        guard.place()
    };
    assert_eq!(place(MAX_FIELDS), Place::Head);
    assert_eq!(place(MAX_FIELDS + 1), Place::BadHead(Fault::HeadTooLarge));
}

#[test]
fn chunked_bodies_are_taken_to_the_letter() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bad = [
        "\r\n",
        ";x\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1 ;x\r\n",
        "1\n",
        "1\r\r\n",
        "1;x\n",
        "1;x\0\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\r0",
        "00000000000000001\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\n\n",
        "0\r\nx: y\r\n z\r\n\r\n",
    ];
    for body in bad {
        let (passed, heads, place) = whole(&format!("{head}{body}"));
        assert_eq!((heads, place), (1, Place::BadBody), "{body:?}");
        assert!(passed.len() < head.len() + body.len(), "{body:?}");
    }
    let extension = format!("{head}1;{}\r\n", "x".repeat(5000));
    assert_eq!(whole(&extension).2, Place::BadBody);
    let trailer = format!("{head}0\r\nx: {}\r\n", "x".repeat(9000));
    assert_eq!(whole(&trailer).2, Place::BadBody);
    let fields = |count| format!("{head}0\r\n{}\r\n", "x:\r\n".repeat(count));
    assert_eq!(whole(&fields(100)).2, Place::Head);
    assert_eq!(differential::check(fields(100).as_bytes(), &[], LIMITS), 1);
    assert_eq!(whole(&fields(101)).2, Place::BadBody);
}

#[test]
fn after_a_wish_for_another_protocol_nothing_passes_until_it_is_decided() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    let mut guard = Guard::new(LIMITS);
    assert_eq!(guard.admit(&mut [&head[..], b"\x81\x80"].concat()), Admitted { bytes: head.len(), heads: 1 });
    assert_eq!(guard.place(), Place::Undecided);
    assert_eq!(guard.admit(&mut b"\x81\x80".to_owned()), Admitted { bytes: 0, heads: 0 });
    guard.decide(true);
    assert_eq!(guard.admit(&mut b"\x81\x80".to_owned()), Admitted { bytes: 2, heads: 0 });

    let mut guard = Guard::new(LIMITS);
    guard.admit(&mut head.to_owned());
    guard.decide(false);
    assert_eq!(guard.admit(&mut b"\x81\x80\r\n\r\n".to_owned()), Admitted { bytes: 0, heads: 0 });
    assert_eq!(guard.place(), Place::BadHead(Fault::Malformed));
}

#[test]
fn a_wish_for_http2_in_the_middle_is_not_passed_on() {
    let asking = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nupgrade: h2c\r\nConnection: upgrade\r\n\r\n";
    let mut bytes = asking.to_vec();
    let mut guard = Guard::new(LIMITS);
    assert_eq!(guard.admit(&mut bytes), Admitted { bytes: asking.len(), heads: 1 });
    assert_eq!(guard.place(), Place::Head);
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        String::from_utf8(asking.to_vec()).unwrap().replace("upgrade: h", "Ignored: h")
    );
    let mut both = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nUpgrade: h2c\r\n\r\n".to_vec();
    let mut guard = Guard::new(LIMITS);
    guard.admit(&mut both);
    assert_eq!(guard.place(), Place::Undecided);
}

#[test]
fn http2_passes_from_its_first_byte_and_only_there() {
    let hello = [HTTP2_PREFACE, b"\0\0\0\x04"].concat();
    assert_eq!(offer(&hello, &[]), (hello.clone(), 0, Place::Raw));
    assert_eq!(offer(&hello, &[1, 2, 18]), (hello.clone(), 0, Place::Raw));
    let late = [b"GET / HTTP/1.0\r\n\r\n", HTTP2_PREFACE].concat();
    assert_eq!(offer(&late, &[]).2, Place::BadHead(Fault::Malformed));
}

/// Pieces of requests, good and bad, from which streams are made.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: x\r\n",
        "X: y\r\n",
        "\r\n",
        "\n",
        "\r",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "3;x\r\nabc\r\n",
        "00003\r\nabc\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
        "GET http://a/b HTTP/1.1\r\nHost: a\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Content-Length: 0\r\n",
        "content-length: 3\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        " ",
        "\0",
    ];
    prop_oneof![
        9 => prop::sample::select(words.map(|word| word.as_bytes().to_vec()).to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ]
}

/// Something like a request: whole or nearly so, with what decides over its body said once, twice or not at all.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let one_of = |words: &'static [&'static str]| prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec());
    let line = one_of(&[
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.0\r\n",
        "\r\nPOST / HTTP/1.1\r\nHost: a\r\n",
    ]);
    let field = one_of(&[
        "Content-Length: 3\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding: x, chunked\r\n",
        "Content-Length : 3\r\n",
        "X: y\n",
        "X: y\r\n z\r\n",
        "X: y\rContent-Length: 3\r\n",
        "X: y\r\n",
        "Host: b\r\n",
        "Upgrade: x\r\n",
        "Upgrade: h2c\r\n",
        "Connection: keep-alive\r\n",
    ]);
    let body = one_of(&[
        "",
        "abc",
        "abcde",
        "3\r\nabc\r\n0\r\n\r\n",
        "3;x\r\nabc\r\n0\r\nA: b\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\n\r\n",
    ]);
    let parts = (line, prop::collection::vec(field, 0..3), body, prop::option::weighted(0.1, piece()));
    parts.prop_map(|(line, fields, body, noise)| {
        [line, fields.concat(), b"\r\n".to_vec(), body, noise.unwrap_or_default()].concat()
    })
}

/// Streams in which everything has its place: what may be split and what follows what.
const STREAMS: [&str; 12] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0000d\r\n0123456789\r\n\r\r\n0\r\nA: b\r\nC:\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabcHEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/x?y HTTP/1.1\r\nHost: b\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nCONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc\x01\x02",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
];

#[test]
fn wherever_a_stream_is_split_hyper_reads_what_was_meant() {
    for stream in STREAMS.map(str::as_bytes) {
        let at_once = differential::check(stream, &[], LIMITS);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                assert_eq!(differential::check(stream, &[first, second], LIMITS), at_once, "{first}, {second}");
            }
        }
        let bytewise: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(differential::check(stream, &bytewise, LIMITS), at_once);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hyper_reads_what_passes_as_it_was_meant(
        pieces in prop::collection::vec(request(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        differential::check(&stream, &cuts, LIMITS);
    }

    #[test]
    fn what_is_plain_is_a_target_to_the_parser(target in "/[a-zA-Z0-9/_.~?=&%+-]{0,40}") {
        prop_assert!(is_plain(&target));
        prop_assert!(target.parse::<Uri>().is_ok());
    }

    #[test]
    fn how_a_stream_is_cut_changes_nothing(
        pieces in prop::collection::vec(piece(), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let (passed, heads, place) = offer(&stream, &cuts);
        prop_assert!(stream.starts_with(&passed));
        let (at_once, heads_at_once, place_at_once) = offer(&stream, &[]);
        // A fault may be noticed in the middle of a head or at its end; what has passed before it is the same.
        prop_assert_eq!((passed, heads), (at_once, heads_at_once));
        let is_fault = |place| matches!(place, Place::BadHead(_));
        if !is_fault(place) && !is_fault(place_at_once) {
            prop_assert_eq!(place, place_at_once);
        }
    }
}
