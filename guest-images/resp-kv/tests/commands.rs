//! Each command beside what Redis answers: tables that read like a session.

use resp_kv::{
    MAX_BULK_BYTES,
    reply::Reply,
    server::{After, ClientId, HEAP_RESERVE_BYTES, Heap, Host, Server},
};

struct Machine {
    micros: u64,
    free: usize,
}

impl Host for Machine {
    fn unix_micros(&mut self) -> u64 {
        self.micros
    }

    fn heap(&self) -> Heap {
        Heap {
            used: 0,
            free: self.free,
        }
    }
}

struct Session {
    machine: Machine,
    server: Server,
    client: ClientId,
    last: After,
}

const START_MICROS: u64 = 1_700_000_000_000_000;

impl Session {
    fn new() -> Self {
        let mut machine = Machine {
            micros: START_MICROS,
            free: 1 << 30,
        };
        let mut server = Server::new(&mut machine);
        let client = server.connect("192.0.2.1:40000".into());
        Session {
            machine,
            server,
            client,
            last: After::Continue,
        }
    }

    fn request(&mut self, request: Vec<Vec<u8>>) -> String {
        let mut reply = Reply::default();
        self.last = self
            .server
            .execute(&mut self.machine, self.client, request, &mut reply);
        let mut bytes = Vec::new();
        while !reply.is_empty() {
            bytes.extend_from_slice(reply.front());
            reply.advance(reply.front().len());
        }
        String::from_utf8_lossy(&bytes)
            .replace("\r\n", " ")
            .trim_end()
            .to_string()
    }

    fn ask(&mut self, line: &str) -> String {
        self.request(
            line.split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect(),
        )
    }

    /// Lines of "request => reply", where the reply's line ends are blanks.
    fn check(&mut self, table: &str) {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (request, expected) = line.split_once(" => ").expect("request => reply");
            assert_eq!(self.ask(request), expected, "{request}");
        }
    }
}

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value";

#[test]
fn strings() {
    Session::new().check(
        "GET a => $-1
         SET a 1 => +OK
         get a => $1 1
         SET a 2 NX => $-1
         SET a 2 XX => +OK
         SET b 2 XX => $-1
         SET a 3 GET => $1 2
         SET n 3 GET => $-1
         SET n 4 NX GET => $1 3
         SET a 3 NX XX => -ERR syntax error
         SET a 3 EX => -ERR syntax error
         SET a 3 EX 1 PX 1 => -ERR syntax error
         SET a 3 EX x => -ERR value is not an integer or out of range
         SET a 3 EX 0 => -ERR invalid expire time in 'set' command
         SET a 3 EX 9223372036854775807 => -ERR invalid expire time in 'set' command
         SET a => -ERR wrong number of arguments for 'set' command
         SETNX a 9 => :0
         SETNX m 9 => :1
         APPEND a 45 => :3
         APPEND new 45 => :2
         GET a => $3 345
         STRLEN a => :3
         STRLEN none => :0
         GETRANGE a 1 -1 => $2 45
         GETRANGE a 5 9 => $0
         GETSET a x => $3 345
         GETDEL a => $1 x
         GET a => $-1
         MSET x 1 y 2 => +OK
         MSET x 1 y => -ERR wrong number of arguments for 'mset' command
         MGET x y z => *3 $1 1 $1 2 $-1",
    );
}

#[test]
fn counters() {
    Session::new().check(
        "INCR c => :1
         INCRBY c 41 => :42
         DECR c => :41
         DECRBY c 1 => :40
         INCRBY c x => -ERR value is not an integer or out of range
         SET c 9223372036854775807 => +OK
         INCR c => -ERR increment or decrement would overflow
         DECRBY c -9223372036854775808 => -ERR increment or decrement would overflow
         SET c 010 => +OK
         INCR c => -ERR value is not an integer or out of range
         SET c word => +OK
         INCR c => -ERR value is not an integer or out of range",
    );
}

#[test]
fn keys() {
    Session::new().check(
        "MSET user:1 a user:2 b other c => +OK
         DBSIZE => :3
         EXISTS user:1 user:1 none => :2
         TYPE user:1 => +string
         TYPE none => +none
         KEYS oth* => *1 $5 other
         KEYS zzz => *0
         SCAN 0 MATCH other COUNT 100 => *2 $1 0 *1 $5 other
         SCAN x => -ERR invalid cursor
         SCAN 0 COUNT 0 => -ERR syntax error
         SCAN 0 COUNT => -ERR syntax error
         DEL user:1 none => :1
         UNLINK user:2 => :1
         FLUSHALL LATER => -ERR syntax error
         FLUSHALL => +OK
         DBSIZE => :0",
    );
}

#[test]
fn expiry_follows_the_clock() {
    let mut session = Session::new();
    session.check(
        "SET a 1 EX 10 => +OK
         SET b 1 PX 500 => +OK
         SET c 1 => +OK
         TTL a => :10
         PTTL b => :500
         TTL c => :-1
         TTL none => :-2
         EXPIRE c 100 => :1
         EXPIRE none 100 => :0
         EXPIRE c 200 NX => :0
         EXPIRE c 50 GT => :0
         EXPIRE c 200 GT => :1
         PERSIST c => :1
         PERSIST c => :0
         SETEX d 5 x => +OK
         PSETEX e 5 x => +OK
         EXPIRETIME d => :1700000005",
    );
    assert_eq!(
        session.server.next_expiry_micros(),
        Some(START_MICROS + 5_000)
    );
    session.machine.micros += 499_999;
    session.check("GET b => $1 1\nGET e => $-1");
    session.machine.micros += 1;
    session.check(
        "GET b => $-1
         DBSIZE => :3
         SET a 2 KEEPTTL => +OK
         TTL a => :10
         SET a 2 => +OK
         TTL a => :-1
         EXPIRE a -1 => :1
         EXISTS a => :0
         PEXPIREAT c 1700000001000 => :1
         PTTL c => :500",
    );
}

#[test]
fn hashes() {
    let mut session = Session::new();
    session.check(
        "HSET h f 1 g 2 => :2
         HSET h f 3 => :0
         HSET h f => -ERR wrong number of arguments for 'hset' command
         HSET h f 1 g => -ERR wrong number of arguments for 'hset' command
         HMSET h i 9 => +OK
         HGET h f => $1 3
         HGET h none => $-1
         HGET none f => $-1
         HMGET h f none => *2 $1 3 $-1
         HLEN h => :3
         HEXISTS h g => :1
         HKEYS h => *3 $1 f $1 g $1 i
         HVALS h => *3 $1 3 $1 2 $1 9
         HGETALL h => *6 $1 f $1 3 $1 g $1 2 $1 i $1 9
         HGETALL none => *0
         HINCRBY h f 4 => :7
         HSET h word x => :1
         HINCRBY h word 1 => -ERR hash value is not an integer
         HDEL h f g i word none => :4
         EXISTS h => :0
         SET s 1 => +OK",
    );
    assert_eq!(session.ask("HSET s f 1"), WRONG_TYPE);
    assert_eq!(session.ask("HGET s f"), WRONG_TYPE);
}

#[test]
fn lists() {
    let mut session = Session::new();
    session.check(
        "RPUSH l a b c => :3
         LPUSH l z y => :5
         LRANGE l 0 -1 => *5 $1 y $1 z $1 a $1 b $1 c
         LRANGE l -2 9 => *2 $1 b $1 c
         LRANGE l 3 1 => *0
         LRANGE l a 1 => -ERR value is not an integer or out of range
         LRANGE none 0 1 => *0
         LINDEX l -1 => $1 c
         LINDEX l 9 => $-1
         LLEN l => :5
         LPOP l => $1 y
         RPOP l 2 => *2 $1 c $1 b
         RPOP l 0 => *0
         LPOP l -1 => -ERR value is out of range, must be positive
         LPOP none => $-1
         LPOP none 1 => *-1
         LPOP l 10 => *2 $1 z $1 a
         EXISTS l => :0
         SET s 1 => +OK",
    );
    for request in ["LPUSH s 1", "LRANGE s 0 1", "LPOP s"] {
        assert_eq!(session.ask(request), WRONG_TYPE);
    }
    session.check("RPUSH l a => :1");
    for request in ["GET l", "INCR l", "APPEND l x", "HGET l f", "GETSET l x"] {
        assert_eq!(session.ask(request), WRONG_TYPE);
    }
    session.check("SET l now-a-string => +OK");
}

#[test]
fn the_connection() {
    let mut session = Session::new();
    session.check(
        "PING => +PONG
         PING hi => $2 hi
         ECHO hi => $2 hi
         SELECT 0 => +OK
         SELECT 1 => -ERR DB index is out of range
         HELLO 3 => -NOPROTO unsupported protocol version
         CLIENT ID => :1
         CLIENT GETNAME => $-1
         CLIENT SETNAME me => +OK
         CLIENT GETNAME => $2 me
         CLIENT SETINFO LIB-NAME lib => +OK
         CLIENT NONSENSE => -ERR unknown subcommand 'NONSENSE'. Try CLIENT HELP.
         CONFIG GET save => *2 $4 save $0
         CONFIG GET append* nothing => *2 $10 appendonly $2 no
         CONFIG SET save 1 => -ERR CONFIG SET is not supported
         COMMAND DOCS => *0
         COMMAND INFO nothing => *1 *-1
         COMMAND INFO get => *1 *6 $3 get :2 *2 +readonly +fast :1 :1 :1
         TIME => *2 $10 1700000000 $1 0
         nonsense a b => -ERR unknown command 'nonsense', with args beginning with: 'a' 'b'",
    );
    assert_eq!(session.last, After::Continue);
    session.check("QUIT => +OK");
    assert_eq!(session.last, After::Close);
}

#[test]
fn info_gives_real_figures() {
    let mut session = Session::new();
    session.check("SET a 1 EX 9 => +OK\nGET a => $1 1\nGET b => $-1\nGET => -ERR wrong number of arguments for 'get' command");
    session.machine.micros += 3_000_000;
    let info = session.ask("INFO");
    for line in [
        "uptime_in_seconds:3",
        "connected_clients:1",
        "total_commands_processed:5",
        "total_error_replies:1",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "db0:keys=1,expires=1",
    ] {
        assert!(info.contains(line), "{line} is missing in {info}");
    }
    assert!(!session.ask("INFO clients").contains("# Memory"));
}

#[test]
fn low_memory_refuses_what_adds_data_and_nothing_else() {
    let mut session = Session::new();
    session.check("SET a 1 => +OK\nRPUSH l 1 => :1");
    session.machine.free = HEAP_RESERVE_BYTES;
    session.check(
        "SET a 2 => -OOM command not allowed when used memory > 'maxmemory'.
         RPUSH l 2 => -OOM command not allowed when used memory > 'maxmemory'.
         GET a => $1 1
         DEL a => :1",
    );
}

#[test]
fn append_stops_at_the_longest_string() {
    let mut session = Session::new();
    let long = vec![b'x'; MAX_BULK_BYTES];
    let words = |words: [&[u8]; 3]| words.map(<[u8]>::to_vec).to_vec();
    assert_eq!(session.request(words([b"SET", b"a", &long])), "+OK");
    assert_eq!(
        session.request(words([b"APPEND", b"a", b"x"])),
        "-ERR string exceeds maximum allowed size (1048576 bytes)"
    );
    session.check("STRLEN a => :1048576");
}
