//! As much of RESP2 as a client needs, pure: requests out, replies in
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

/// The longest reply that is waited for, in bytes: far more than the workload ever stores.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Reply {
    /// `+OK`.
    Status(String),
    /// `:42`.
    Integer(u64),
    /// A value, or that there is none.
    Bulk(Option<Vec<u8>>),
    /// `-ERR …`.
    Error(String),
}

/// Bytes that are no reply of this protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the guest sent is no RESP reply: {0:?}")]
pub(in crate::cli) struct Malformed(String);

/// Appends a command.
pub(in crate::cli) fn encode(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and its length; `None` while it has not arrived in full.
///
/// # Errors
///
/// [`Malformed`], also for a reply that is longer than [`MAX_REPLY_BYTES`].
pub(in crate::cli) fn decode(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let malformed = || {
        let start = &bytes[..bytes.len().min(40)];
        Malformed(String::from_utf8_lossy(start).into_owned())
    };
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > MAX_REPLY_BYTES {
            Err(malformed())
        } else {
            Ok(None)
        };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed())?;
    let used = end + 2;
    let (kind, text) = line.split_at_checked(1).ok_or_else(malformed)?;
    let reply = match kind {
        "+" => Reply::Status(text.to_owned()),
        "-" => Reply::Error(text.to_owned()),
        ":" => Reply::Integer(text.parse().map_err(|_| malformed())?),
        "$" if text == "-1" => Reply::Bulk(None),
        "$" => {
            let len: usize = text.parse().map_err(|_| malformed())?;
            if len > MAX_REPLY_BYTES {
                return Err(malformed());
            }
            let Some(rest) = bytes.get(used..used + len + 2) else {
                return Ok(None);
            };
            let (value, end) = rest.split_at(len);
            if end != b"\r\n" {
                return Err(malformed());
            }
            return Ok(Some((Reply::Bulk(Some(value.to_vec())), used + len + 2)));
        }
        _ => return Err(malformed()),
    };
    Ok(Some((reply, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_once_they_are_whole() {
        let cases: [(&[u8], Reply); 6] = [
            (b"+OK\r\n", Reply::Status("OK".to_owned())),
            (b":42\r\n", Reply::Integer(42)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", Reply::Bulk(Some(vec![]))),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb".to_vec()))),
            (b"-ERR no\r\n", Reply::Error("ERR no".to_owned())),
        ];
        for (bytes, reply) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "{reply:?} cut at {cut}");
            }
            let more = [bytes, b"+next\r\n"].concat();
            assert_eq!(decode(&more), Ok(Some((reply, bytes.len()))));
        }
    }

    #[test]
    fn sec_2_what_is_no_reply_is_refused() {
        let cases: [&[u8]; 6] = [
            b"\r\n",
            b"*1\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$99999999\r\n",
            b"$1\r\nabc",
        ];
        for bytes in cases {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(decode(&vec![b'+'; MAX_REPLY_BYTES + 1]).is_err());
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&[b"SET", b"k", b"12"], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n12\r\n");
    }
}
