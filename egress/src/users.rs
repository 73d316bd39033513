//! Ranges of user ids, and those that a user may take on without being another user.
//!
//! A user with subordinate ids (`/etc/subuid`, the default of useradd(8)) may run programs as any of
//! them in a user namespace, and what these send carries such an id: a lock on the user's own id alone
//! is one that the user can step out of.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

use nix::unistd::User;
use serde::{Deserialize, Serialize};

/// Who may take on which ids, by subuid(5).
pub const SUBORDINATE: &str = "/etc/subuid";

/// User ids from the first to the last. In state files a single id is a number, as older versions
/// wrote it, and a range is a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Form", into = "Form")]
pub struct UserRange {
    first: u32,
    last: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    One(u32),
    Span(Span),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Span(u32, u32);

impl UserRange {
    /// `None` where the last comes before the first.
    pub fn new(first: u32, last: u32) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    pub fn contains(self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// As `ip rule` takes and shows it: always both ends.
    pub fn ends(self) -> String {
        format!("{}-{}", self.first, self.last)
    }

    /// What of it `others` do not hold.
    #[must_use]
    pub fn without(self, others: &[Self]) -> Vec<Self> {
        let mut rest = vec![self];
        for other in others {
            rest = rest.into_iter().flat_map(|range| range.less(*other)).flatten().collect();
        }
        rest
    }

    fn less(self, other: Self) -> [Option<Self>; 2] {
        if !self.overlaps(other) {
            return [Some(self), None];
        }
        let before = other.first.checked_sub(1).and_then(|last| Self::new(self.first, last));
        let after = other.last.checked_add(1).and_then(|first| Self::new(first, self.last));
        [before, after]
    }
}

impl From<u32> for UserRange {
    fn from(uid: u32) -> Self {
        Self { first: uid, last: uid }
    }
}

impl fmt::Display for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            f.write_str(&self.ends())
        }
    }
}

/// A text is no range of ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a range of user ids: want two numbers such as 100000-165535")]
pub struct NotARange;

impl FromStr for UserRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (first, last) = text.split_once('-').ok_or(NotARange)?;
        let number = |text: &str| text.trim().parse().map_err(|_| NotARange);
        Self::new(number(first)?, number(last)?).ok_or(NotARange)
    }
}

impl From<Form> for UserRange {
    fn from(form: Form) -> Self {
        match form {
            Form::One(uid) => uid.into(),
            Form::Span(Span(first, last)) => Self { first, last },
        }
    }
}

impl From<UserRange> for Form {
    fn from(range: UserRange) -> Self {
        if range.first == range.last {
            Self::One(range.first)
        } else {
            Self::Span(Span(range.first, range.last))
        }
    }
}

impl TryFrom<String> for Span {
    type Error = NotARange;

    fn try_from(text: String) -> Result<Self, NotARange> {
        text.parse().map(|UserRange { first, last }| Self(first, last))
    }
}

impl From<Span> for String {
    fn from(Span(first, last): Span) -> Self {
        format!("{first}-{last}")
    }
}

/// The ids that a user may take on. Other sources than the file (`subid:` in nsswitch.conf) are not
/// asked.
pub fn subordinate(name: &str, uid: u32) -> std::io::Result<Vec<UserRange>> {
    subordinate_in(Path::new(SUBORDINATE), name, uid)
}

fn subordinate_in(file: &Path, name: &str, uid: u32) -> std::io::Result<Vec<UserRange>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().filter_map(|line| range_of(line, name, uid)).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Subordinate ids of single users among `held` that are not held themselves, each as a sentence for
/// people. A user who is named brings these along; one who is given by number does not.
pub fn left_out(held: &[UserRange]) -> Vec<String> {
    let single = held.iter().filter(|range| range.first == range.last);
    let sentence = |range: &UserRange| {
        let uid = range.first;
        let user = User::from_uid(uid.into()).ok().flatten();
        let name = user.map_or_else(|| uid.to_string(), |user| user.name);
        let ranges = subordinate(&name, uid).unwrap_or_default();
        let rest: Vec<String> = ranges
            .iter()
            .flat_map(|range| range.without(held))
            .map(|range| format!("\"{range}\""))
            .collect();
        (!rest.is_empty()).then(|| {
            format!(
                "user {uid} may also run programs as the subordinate ids {0} ({SUBORDINATE}), which \
                 are not locked in: add {0} to `users`, or write the name instead of the number",
                rest.join(", ")
            )
        })
    };
    single.filter_map(sentence).collect()
}

/// `name:100000:65536`; the name may be the number.
fn range_of(line: &str, name: &str, uid: u32) -> Option<UserRange> {
    let mut fields = line.trim().splitn(3, ':');
    let whose = fields.next()?;
    if whose != name && whose.parse() != Ok(uid) {
        return None;
    }
    let first: u32 = fields.next()?.parse().ok()?;
    let count: u64 = fields.next()?.parse().ok().filter(|count| *count > 0)?;
    let last = u64::from(first) + count - 1;
    UserRange::new(first, u32::try_from(last).unwrap_or(u32::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> UserRange {
        text.parse().expect(text)
    }

    #[test]
    fn the_ids_that_a_user_may_take_on_are_those_of_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("subuid");
        assert_eq!(subordinate_in(&file, "alice", 1000).expect("no file"), []);
        let text = "# comment\nbob:200000:65536\nalice:100000:65536\n1000:300000:1\nalice:x:1\n\
                    alice:5:0\nalicea:1:1\n10:7:7\n";
        fs::write(&file, text).expect("written");
        let found = subordinate_in(&file, "alice", 1000).expect("read");
        assert_eq!(found, [range("100000-165535"), range("300000-300000")]);
        fs::write(&file, "alice:4294901760:999999999999\n").expect("written");
        let found = subordinate_in(&file, "alice", 1000).expect("read");
        assert_eq!(found, [range("4294901760-4294967294")]);
        fs::write(&file, [0xff]).expect("written");
        subordinate_in(&file, "alice", 1000).expect_err("what cannot be read is not empty");
    }

    #[test]
    fn an_older_state_has_numbers_and_a_range_is_a_text() {
        let ranges = vec![UserRange::from(1000), range("100000-165535")];
        let text = serde_json::to_string(&ranges).expect("JSON");
        assert_eq!(text, r#"[1000,"100000-165535"]"#);
        assert_eq!(serde_json::from_str::<Vec<UserRange>>(&text).expect("read back"), ranges);
        for wrong in [r#"["7-3"]"#, r#"["a-b"]"#, r#"["7"]"#, "[-1]"] {
            serde_json::from_str::<Vec<UserRange>>(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn what_others_hold_is_left_out() {
        let without = |text: &str, others: &[&str]| -> String {
            let others: Vec<UserRange> = others.iter().map(|other| range(other)).collect();
            let rest = range(text).without(&others);
            rest.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        assert_eq!(without("10-20", &[]), "10-20");
        assert_eq!(without("10-20", &["15-15"]), "10-14,16-20");
        assert_eq!(without("10-20", &["1-10", "20-30"]), "11-19");
        assert_eq!(without("10-20", &["0-4294967295"]), "");
        assert_eq!(without("0-4294967295", &["0-0", "4294967295-4294967295"]), "1-4294967294");
    }
}
