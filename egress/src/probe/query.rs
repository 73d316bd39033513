//! Does a resolver on the far side of the tunnel answer? Any answer to this very query is one, also
//! "no such name" or "refused": it came through the tunnel.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::ask::{Heard, Question, ask};
use super::{Device, ProbeError, Reply, bind, hear, hear_refusals, not_sent, send, unguessable};
use crate::config::DnsName;

/// Identifier, flags, and how many questions, answers, authorities and additional records.
const HEADER: usize = 12;
/// What follows a name in a question: the type (A) and the class (Internet).
const TYPE_AND_CLASS: [u8; 4] = [0, 1, 0, 1];
/// Of the first byte of the flags: a response, and which kind of query it is one to.
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
/// Of the same: recursion is desired, as programs ask.
const RECURSION_DESIRED: u8 = 0x01;

/// Sends a query by `device`, again and again until it is answered or its time is over.
pub(super) fn query_through(
    device: &Device,
    resolver: SocketAddr,
    name: &DnsName,
    timeout: Duration,
) -> Result<Reply, ProbeError> {
    let to = resolver.ip();
    let socket = Socket::new(Domain::for_address(resolver), Type::DGRAM, Some(Protocol::UDP))
        .map_err(|source| ProbeError::Open { to, source })?;
    bind(&socket, device)?;
    hear_refusals(&socket, to)?;
    // Connected, so that only the resolver is heard.
    socket.connect(&resolver.into()).map_err(|source| not_sent(to, source))?;
    ask(&mut Asking { socket, to, query: Query::new(name) }, timeout)
}

/// One query, sent again and again as programs do: an answer to any of them is the same.
struct Asking {
    socket: Socket,
    to: IpAddr,
    query: Query,
}

impl Question for Asking {
    fn put(&mut self) -> Result<(), ProbeError> {
        send(&self.socket, self.to, &self.query.message)
    }

    fn hear(&mut self, until: Instant) -> Result<Heard, ProbeError> {
        hear(&self.socket, self.to, until, |datagram| self.query.is_answered_by(datagram))
    }
}

/// One query and how to know its answer.
struct Query {
    message: Vec<u8>,
}

impl Query {
    fn new(name: &DnsName) -> Self {
        let [high, low, ..] = unguessable().to_ne_bytes();
        let mut message = vec![high, low, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(name.wire());
        message.extend(TYPE_AND_CLASS);
        Self { message }
    }

    /// A response with this identifier, that repeats the question, or, as some refusals do, has none.
    fn is_answered_by(&self, datagram: &[u8]) -> bool {
        let Some((header, rest)) = datagram.split_first_chunk::<HEADER>() else {
            return false;
        };
        let question = self.message.get(HEADER..).unwrap_or_default();
        let repeats = match header[4..6] {
            [0, 0] => true,
            [0, 1] => {
                rest.get(..question.len()).is_some_and(|same| same.eq_ignore_ascii_case(question))
            }
            _ => false,
        };
        header[..2] == self.message[..2] && header[2] & (RESPONSE | OPCODE) == RESPONSE && repeats
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query() -> Query {
        Query::new(&DnsName::parse("example.com").expect("a name"))
    }

    /// The answer to it, with this response code.
    fn answer(query: &Query, code: u8) -> Vec<u8> {
        let mut answer = query.message.clone();
        answer[2] |= RESPONSE;
        answer[3] = code;
        answer
    }

    #[test]
    fn any_answer_to_this_query_is_one() {
        let query = query();
        for code in 0..=5 {
            assert!(query.is_answered_by(&answer(&query, code)), "{code}");
        }
        let shouted = answer(&query, 0).to_ascii_uppercase();
        let mut shouted_question = answer(&query, 0);
        shouted_question[HEADER..].copy_from_slice(&shouted[HEADER..]);
        assert!(query.is_answered_by(&shouted_question), "names have no case");
        let mut bare = answer(&query, 1);
        bare[5] = 0;
        assert!(query.is_answered_by(&bare[..HEADER]), "an error without the question");
    }

    #[test]
    fn nothing_else_is() {
        let query = query();
        let good = answer(&query, 0);
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut message = good.clone();
            change(&mut message);
            message
        };
        for (what, message) in [
            ("the query itself", query.message.clone()),
            ("another identifier", changed(|m| m[1] ^= 1)),
            ("another kind of query", changed(|m| m[2] |= 0x10)),
            ("another name", changed(|m| m[HEADER + 1] ^= 1)),
            ("another type", changed(|m| *m.last_mut().expect("a class") ^= 2)),
            ("two questions", changed(|m| m[5] = 2)),
            ("cut short", good[..good.len() - 1].to_vec()),
            ("no header", good[..HEADER - 1].to_vec()),
            ("nothing", Vec::new()),
        ] {
            assert!(!query.is_answered_by(&message), "{what}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_never_an_answer(noise in prop::collection::vec(any::<u8>(), 0..64)) {
            let query = query();
            prop_assume!(noise.get(..2) != Some(&query.message[..2]));
            prop_assert!(!query.is_answered_by(&noise));
        }
    }
}
