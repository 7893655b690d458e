//! Bytes from anywhere: no panic, no more memory than is bounded, and the same
//! requests however the stream is cut.

use proptest::prelude::*;
use resp_kv::{
    parser::{Event, MAX_LINE_BYTES, RequestParser},
    reply::Reply,
    server::{After, HEAP_RESERVE_BYTES, Heap, Host, Server},
};

const ALLOWANCE: usize = 1 << 20;

/// Bytes that look enough like RESP to get past its first checks.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let bulk = prop::collection::vec(any::<u8>(), 0..40)
        .prop_map(|bytes| [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat());
    let number = prop_oneof![
        any::<i64>(),
        -2..20_i64,
        Just(1 << 20),
        Just((1 << 20) + 1),
        Just(512 << 20),
        Just((512 << 20) + 1),
    ];
    let head = (prop_oneof![Just('*'), Just('$'), Just(':')], number)
        .prop_map(|(kind, number)| format!("{kind}{number}\r\n").into_bytes());
    let request = prop::collection::vec(bulk.clone(), 1..6)
        .prop_map(|bulks| [format!("*{}\r\n", bulks.len()).into_bytes(), bulks.concat()].concat());
    let inline = "[ -~]{0,40}\r\n".prop_map(String::into_bytes);
    let noise = prop::collection::vec(any::<u8>(), 0..60);
    let piece = prop_oneof![4 => request, 2 => bulk, 2 => head, 2 => inline, 1 => noise];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// All events of a stream that is cut at `cuts`, checking what the parser holds.
fn events(stream: &[u8], cuts: &[usize], allowance: usize) -> Vec<Event> {
    let mut parser = RequestParser::default();
    let mut events = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let mut input = &stream[pair[0]..pair[1]];
        loop {
            let before = input.len();
            let event = parser.step(&mut input, allowance);
            assert!(input.len() <= before);
            assert!(
                parser.held() <= allowance + 2 * MAX_LINE_BYTES,
                "held {}",
                parser.held()
            );
            match event {
                Event::NeedMore => {
                    assert!(input.is_empty());
                    break;
                }
                broken @ Event::Broken(_) => {
                    events.push(broken);
                    return events;
                }
                event => events.push(event),
            }
        }
    }
    events
}

/// A machine with a clock that moves and a heap that is as full as it says.
struct Machine {
    micros: u64,
    free: usize,
}

impl Host for Machine {
    fn unix_micros(&mut self) -> u64 {
        self.micros += 1;
        self.micros
    }

    fn heap(&self) -> Heap {
        Heap {
            used: 0,
            free: self.free,
        }
    }
}

/// One well-formed RESP2 reply at the start of `bytes`: what follows it.
fn skip_reply(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .expect("a line ends");
    let (line, rest) = (&bytes[1..end], &bytes[end + 2..]);
    let number = || {
        std::str::from_utf8(line)
            .unwrap()
            .parse::<i64>()
            .expect("a number")
    };
    match bytes[0] {
        b'+' | b'-' => rest,
        b':' => {
            number();
            rest
        }
        b'$' if number() < 0 => rest,
        b'$' => rest[number() as usize..]
            .strip_prefix(b"\r\n")
            .expect("a bulk ends"),
        b'*' => (0..number().max(0)).fold(rest, |rest, _| skip_reply(rest)),
        other => panic!("no reply begins with {other}"),
    }
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: &[&str] = &[
        "append",
        "client",
        "command",
        "config",
        "dbsize",
        "decr",
        "decrby",
        "del",
        "echo",
        "exists",
        "expire",
        "expireat",
        "expiretime",
        "flushall",
        "get",
        "getdel",
        "getrange",
        "getset",
        "hdel",
        "hello",
        "hexists",
        "hget",
        "hgetall",
        "hincrby",
        "hkeys",
        "hlen",
        "hmget",
        "hmset",
        "hset",
        "hvals",
        "incr",
        "incrby",
        "info",
        "keys",
        "lindex",
        "llen",
        "lpop",
        "lpush",
        "lrange",
        "mget",
        "mset",
        "persist",
        "pexpire",
        "pexpireat",
        "ping",
        "psetex",
        "pttl",
        "quit",
        "rpop",
        "rpush",
        "scan",
        "select",
        "set",
        "setex",
        "setnx",
        "strlen",
        "time",
        "ttl",
        "type",
        "unlink",
    ];
    const OPTIONS: &[&str] = &[
        "EX",
        "PX",
        "NX",
        "XX",
        "GET",
        "KEEPTTL",
        "EXAT",
        "PXAT",
        "GT",
        "LT",
        "MATCH",
        "COUNT",
        "TYPE",
        "string",
        "*",
        "a*",
        "[a-",
        "SETNAME",
        "LIST",
        "ID",
        "DOCS",
        "INFO",
        "RESETSTAT",
    ];
    prop_oneof![
        3 => prop::sample::select(NAMES).prop_map(|name| name.as_bytes().to_vec()),
        4 => prop::sample::select(&["a", "b", "c"]).prop_map(|key| key.as_bytes().to_vec()),
        2 => prop::sample::select(OPTIONS).prop_map(|word| word.as_bytes().to_vec()),
        2 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        2 => (-3..9_i64).prop_map(|number| number.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..3_000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_cuts_of_a_stream_do_not_matter(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        prop_assert_eq!(events(&stream, &[], ALLOWANCE), events(&stream, &cuts, ALLOWANCE));
    }

    #[test]
    fn any_bytes_and_little_memory(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        allowance in 0..2_000_usize,
    ) {
        events(&stream, &cuts, allowance);
    }

    #[test]
    fn any_commands_get_one_reply_each(
        requests in prop::collection::vec(prop::collection::vec(word(), 1..7), 1..40),
        room in prop_oneof![Just(1 << 30), 0..20_000_usize],
    ) {
        let mut machine = Machine { micros: 1_700_000_000_000_000, free: HEAP_RESERVE_BYTES + room };
        let mut server = Server::new(&mut machine);
        let client = server.connect("192.0.2.1:1".into());
        for request in requests {
            let mut reply = Reply::default();
            let _: After = server.execute(&mut machine, client, request.clone(), &mut reply);
            let mut bytes = Vec::new();
            while !reply.is_empty() {
                bytes.extend_from_slice(reply.front());
                reply.advance(reply.front().len());
            }
            prop_assert!(skip_reply(&bytes).is_empty(), "{:?}", request);
        }
    }
}
