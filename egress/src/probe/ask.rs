//! One question, put again and again within its time. One packet that is lost is no evidence: a
//! saturated tunnel loses them all day. An answer to any of the tries is an answer.
//!
//! What was refused is not put again: it was not lost, and four refusals are more bytes than a far
//! end that forwards nothing may send and still look like it.
//!
//! Must never wait beyond the time it was given.

use std::time::{Duration, Instant};

use super::{ProbeError, Reply, is_about_the_way};

/// How often a question is put, evenly over its time. Of a tunnel that loses every second answer,
/// one question in sixteen stays unanswered; and it is far from a flood.
const TRIES: u32 = 4;

/// What is asked of the far end.
pub(super) trait Question {
    /// Puts it, for the first time or again.
    fn put(&mut self) -> Result<(), ProbeError>;

    /// Waits until `until` for an answer to any of the tries.
    fn hear(&mut self, until: Instant) -> Result<Heard, ProbeError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Answer,
    /// Somebody on the way said that it did not arrive. An answer may come all the same.
    Refusal,
    Nothing,
}

/// Asks until there is an answer, or the time is over. How long it took counts from the first try.
pub(super) fn ask(question: &mut impl Question, timeout: Duration) -> Result<Reply, ProbeError> {
    let started = Instant::now();
    let mut refused = false;
    for nth in 1..=TRIES {
        if !refused {
            match question.put() {
                Err(error) if nth > 1 && is_about_a_try_before(&error) => refused = true,
                put => put?,
            }
        }
        match question.hear(started + timeout * nth / TRIES)? {
            Heard::Answer => return Ok(Reply::Answered { took: started.elapsed() }),
            Heard::Refusal => refused = true,
            Heard::Nothing => {}
        }
    }
    Ok(Reply::Silent)
}

/// What somebody on the way said of a packet may be told at the sending of the next one.
fn is_about_a_try_before(error: &ProbeError) -> bool {
    match error {
        ProbeError::Send { source, .. } | ProbeError::Forbidden { source, .. } => {
            is_about_the_way(source)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr};

    use nix::errno::Errno;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(80);

    /// A far end that answers, and refuses, the try of this number; and what the sending of each says.
    struct Far {
        answers: u32,
        refuses: u32,
        sending: fn(u32) -> Option<Errno>,
        tries: u32,
    }

    impl Question for Far {
        fn put(&mut self) -> Result<(), ProbeError> {
            self.tries += 1;
            let failed = (self.sending)(self.tries);
            failed.map_or(Ok(()), |errno| {
                let to = IpAddr::V4(Ipv4Addr::LOCALHOST);
                Err(super::super::not_sent(to, io::Error::from(errno)))
            })
        }

        fn hear(&mut self, until: Instant) -> Result<Heard, ProbeError> {
            if self.tries >= self.answers {
                return Ok(Heard::Answer);
            }
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            Ok(if self.tries >= self.refuses { Heard::Refusal } else { Heard::Nothing })
        }
    }

    fn far(answers: u32, sending: fn(u32) -> Option<Errno>) -> Far {
        Far { answers, refuses: TRIES, sending, tries: 0 }
    }

    #[test]
    fn an_answer_to_any_of_the_tries_is_one() {
        for answers in 1..=TRIES {
            let mut far = far(answers, |_| None);
            let Ok(Reply::Answered { took }) = ask(&mut far, TIMEOUT) else {
                panic!("unanswered at the try {answers}");
            };
            assert_eq!(far.tries, answers, "and no more is asked");
            assert!(took >= TIMEOUT * (answers - 1) / TRIES, "from the first try: {took:?}");
        }
    }

    #[test]
    fn who_never_answers_is_silent_after_its_time() {
        let (mut far, started) = (far(TRIES + 1, |_| None), Instant::now());
        assert!(matches!(ask(&mut far, TIMEOUT), Ok(Reply::Silent)));
        assert_eq!(far.tries, TRIES);
        assert!(started.elapsed() >= TIMEOUT, "{:?}", started.elapsed());
    }

    #[test]
    fn what_was_refused_is_not_asked_again_and_waited_for_all_the_same() {
        let started = Instant::now();
        let mut far = Far { refuses: 2, ..far(TRIES, |_| None) };
        assert!(matches!(ask(&mut far, TIMEOUT), Ok(Reply::Silent)));
        assert_eq!(far.tries, 2);
        assert!(started.elapsed() >= TIMEOUT, "{:?}", started.elapsed());
    }

    #[test]
    fn a_word_about_the_try_before_ends_nothing_but_a_reason_on_this_host_does() {
        let refused = |nth| (nth == 2).then_some(Errno::EHOSTUNREACH);
        assert!(matches!(ask(&mut far(2, refused), TIMEOUT), Ok(Reply::Answered { .. })));
        let dropped = |nth| (nth == 2).then_some(Errno::EPERM);
        assert!(matches!(ask(&mut far(3, dropped), TIMEOUT), Err(ProbeError::Forbidden { .. })));
        let no_route = |nth| (nth == 1).then_some(Errno::EHOSTUNREACH);
        assert!(matches!(ask(&mut far(2, no_route), TIMEOUT), Err(ProbeError::Send { .. })));
    }
}
