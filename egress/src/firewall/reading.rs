//! What a ruleset of somebody else's does to one packet, as far as that can be read from it.
//!
//! A rule that is not understood *may* match, and everything after it is no more certain than that.
//! Each chain is read once for each mark that a packet can have there, so a ruleset costs what its
//! rules are, not what the ways through its jumps are.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use super::facts::{Facts, Truth, is_other_protocol, name_of, number};
use super::xt::{Target, Xt, XtRules};

use Truth::{Maybe, No, Yes};

/// What a rule does to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    Refuses,
    /// To this address; `None`: to this host itself, or it is not known where.
    Redirects(Option<String>),
    /// The mark is this afterwards; `None`: it is not known what.
    Marks(Option<u64>),
    /// Hands the connection to this flowtable.
    Offloads(String),
}

/// A rule, or the policy of a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub chain: String,
    /// Handle of the rule; `None`: the policy.
    pub rule: Option<u64>,
}

/// One thing that is done to the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub place: Place,
    pub deed: Deed,
    pub sure: bool,
}

/// What becomes of a packet in one base chain.
#[derive(Debug, Default)]
pub struct Read {
    pub effects: Vec<Effect>,
    /// Whether all of it was read: a ruleset without end is read to a limit.
    pub complete: bool,
}

/// How a packet comes out of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a verdict, of whatever kind.
    Ended,
    /// To where the chain was called from.
    Back,
}

/// One table, with its chains and sets.
#[derive(Debug)]
pub struct Table<'ruleset> {
    rules: BTreeMap<&'ruleset str, Vec<&'ruleset Value>>,
    sets: BTreeMap<&'ruleset str, &'ruleset Value>,
    xt: &'ruleset XtRules,
}

/// A mark that was set for certain, and where.
type Marked = Option<(Option<u64>, Place)>;

/// A packet on its way through one chain.
#[derive(Debug)]
struct Packet {
    entered_with: Option<u64>,
    mark: Option<u64>,
    marked: Marked,
    sure: bool,
    /// Whether it may have been accepted or refused on the way.
    may_have_ended: bool,
    /// Each with whether it is certain, once the chain is entered.
    effects: BTreeMap<(Place, Deed), bool>,
}

/// What a chain makes of a packet that enters it.
#[derive(Debug)]
struct Outcome {
    way: Way,
    marked: Marked,
    may_have_ended: bool,
    effects: BTreeMap<(Place, Deed), bool>,
}

struct Walk<'walk> {
    table: &'walk Table<'walk>,
    facts: &'walk Facts,
    memory: BTreeMap<(String, Option<u64>), Rc<Outcome>>,
    depth: usize,
    steps: usize,
}

/// Jumps deep. The kernel's own limit is 16 (`NFT_JUMP_STACK_SIZE`); it allows no loop.
const DEPTH: usize = 16;

/// Rules and set elements that are compared with one packet in one base chain: a tenth of a second.
/// The largest ruleset that was met (a cluster's, 20,000 rules) takes a tenth of them.
const STEPS: usize = 400_000;

impl Place {
    fn of(chain: &str, rule: &Value) -> Self {
        Self { chain: chain.to_owned(), rule: rule["handle"].as_u64() }
    }
}

impl<'ruleset> Table<'ruleset> {
    /// `objects`: (kind, body) of this table alone.
    pub fn of(
        objects: impl Iterator<Item = (&'ruleset str, &'ruleset Value)>,
        xt: &'ruleset XtRules,
    ) -> Self {
        let mut table = Self { rules: BTreeMap::new(), sets: BTreeMap::new(), xt };
        for (kind, body) in objects {
            match (kind, body["chain"].as_str(), body["name"].as_str()) {
                ("rule", Some(chain), _) => table.rules.entry(chain).or_default().push(body),
                ("set" | "map", _, Some(name)) => drop(table.sets.insert(name, &body["elem"])),
                _ => {}
            }
        }
        table
    }

    /// What a base chain does to a packet with these facts and this mark. `reached`: whether the
    /// packet comes there at all.
    pub fn read(
        &self,
        chain: &str,
        policy: &str,
        (facts, mark): (&Facts, Option<u64>),
        reached: Truth,
    ) -> Read {
        let mut walk = Walk { table: self, facts, memory: BTreeMap::new(), depth: 0, steps: 0 };
        let outcome = walk.chain(chain, mark);
        let sure = reached == Yes;
        let effect = |((place, deed), certain): (&(Place, Deed), &bool)| Effect {
            place: place.clone(),
            deed: deed.clone(),
            sure: sure && *certain,
        };
        let mut effects: Vec<Effect> = outcome.effects.iter().map(effect).collect();
        // What is said of the mark is what it is in the end.
        effects.extend(outcome.marked.iter().map(|(mark, place)| Effect {
            place: place.clone(),
            deed: Deed::Marks(*mark),
            sure,
        }));
        if outcome.way == Way::Back && policy == "drop" {
            let place = Place { chain: chain.to_owned(), rule: None };
            let sure = sure && !outcome.may_have_ended;
            effects.push(Effect { place, deed: Deed::Refuses, sure });
        }
        Read { effects, complete: walk.steps < STEPS }
    }

    /// The elements of a set, by its name too.
    fn elements<'set>(&'set self, set: &'set Value) -> Vec<&'set Value> {
        let named = set.as_str().and_then(|name| self.sets.get(name.strip_prefix('@')?));
        let list = named.copied().or_else(|| set.get("set")).unwrap_or(set);
        list.as_array().into_iter().flatten().collect()
    }
}

impl Packet {
    fn entering(mark: Option<u64>) -> Self {
        let (marked, effects) = (None, BTreeMap::new());
        Self { entered_with: mark, mark, marked, sure: true, may_have_ended: false, effects }
    }

    fn add(&mut self, place: Place, deed: Deed, certain: bool) {
        *self.effects.entry((place, deed)).or_default() |= certain;
    }

    fn mark(&mut self, place: Place, mark: Option<u64>, meets: Truth) {
        if mark.is_some() && mark == self.mark {
            return;
        }
        if self.sure && meets == Yes {
            // Named is the rule that took the mark away, not one that set another later on.
            let first = match self.marked.take() {
                Some((_, first)) if self.mark != self.entered_with => first,
                _ => place,
            };
            self.mark = mark;
            self.marked = Some((mark, first));
        } else {
            self.add(place, Deed::Marks(mark), false);
        }
    }
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, mark: Option<u64>) -> Rc<Outcome> {
        let key = (name.to_owned(), mark);
        if let Some(known) = self.memory.get(&key) {
            return Rc::clone(known);
        }
        let table = self.table;
        let rules = table.rules.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut packet = Packet::entering(mark);
        let mut way = Way::Back;
        self.depth += 1;
        for rule in rules {
            self.steps += 1;
            if self.depth > DEPTH || self.steps >= STEPS {
                // Not read: whatever is there may end it.
                packet.may_have_ended = true;
                break;
            }
            if let Some(ended) = self.rule(name, rule, &mut packet) {
                way = ended;
                break;
            }
        }
        self.depth -= 1;
        let Packet { marked, may_have_ended, effects, .. } = packet;
        let outcome = Rc::new(Outcome { way, marked, may_have_ended, effects });
        self.memory.insert(key, Rc::clone(&outcome));
        outcome
    }

    /// `None`: on to the next rule.
    fn rule(&mut self, chain: &str, rule: &Value, packet: &mut Packet) -> Option<Way> {
        let mut meets = Yes;
        let mut extensions = 0;
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next())
            else {
                continue;
            };
            match kind.as_str() {
                "match" => meets = meets.min(self.matches(body, packet.mark)),
                "vmap" => return self.by_map(&Place::of(chain, rule), body, meets, packet),
                // A rate, a quota: who knows.
                "limit" | "quota" | "connlimit" => meets = meets.min(Maybe),
                "xt" => {
                    let xt = self.table.xt.get(rule, extensions, body);
                    extensions += 1;
                    match xt {
                        Xt::Match(condition) => {
                            let truth = condition.holds(self.facts, packet.mark);
                            meets = meets.min(truth);
                        }
                        Xt::Target(target) => {
                            let way =
                                self.extension(Place::of(chain, rule), &target, meets, packet);
                            if way.is_some() {
                                return way;
                            }
                        }
                    }
                }
                _ => {
                    let way = self.verdict(&Place::of(chain, rule), (kind, body), meets, packet);
                    if way.is_some() {
                        return way;
                    }
                }
            }
            if meets == No {
                return None;
            }
        }
        None
    }

    /// `None`: no verdict, or one that does not end the way here.
    fn verdict(
        &mut self,
        place: &Place,
        (kind, body): (&str, &Value),
        meets: Truth,
        packet: &mut Packet,
    ) -> Option<Way> {
        let certain = packet.sure && meets == Yes;
        match kind {
            "drop" | "reject" => packet.add(place.clone(), Deed::Refuses, certain),
            "dnat" => {
                let to = body["addr"].as_str().map(ToOwned::to_owned);
                packet.add(place.clone(), Deed::Redirects(to), certain);
            }
            "redirect" => packet.add(place.clone(), Deed::Redirects(None), certain),
            "accept" | "queue" | "snat" | "masquerade" | "return" => {}
            "jump" | "goto" => return self.call(kind, body["target"].as_str()?, meets, packet),
            "mangle" if name_of(&body["key"]) == Some("mark") => {
                let mark = number(&body["value"], packet.mark, self.facts);
                packet.mark(place.clone(), mark, meets);
                return None;
            }
            "flow" => {
                let table = body["flowtable"].as_str().unwrap_or_default();
                let table = table.trim_start_matches('@').to_owned();
                packet.add(place.clone(), Deed::Offloads(table), certain);
                return None;
            }
            _ => return None,
        }
        Self::end(if kind == "return" { Way::Back } else { Way::Ended }, meets, packet)
    }

    fn extension(
        &mut self,
        place: Place,
        target: &Target,
        meets: Truth,
        packet: &mut Packet,
    ) -> Option<Way> {
        let certain = packet.sure && meets == Yes;
        match target {
            Target::Nothing => return None,
            Target::SetsMark(value) => {
                packet.mark(place, value.of(packet.mark, self.facts), meets);
                return None;
            }
            Target::Refuses => packet.add(place, Deed::Refuses, certain),
            Target::Redirects(to) => packet.add(place, Deed::Redirects(to.clone()), certain),
            Target::Ends => {}
            Target::Unknown => return Self::end(Way::Ended, meets.min(Maybe), packet),
        }
        Self::end(Way::Ended, meets, packet)
    }

    fn end(way: Way, meets: Truth, packet: &mut Packet) -> Option<Way> {
        if meets == Yes {
            return Some(way);
        }
        // It may have ended here, so what follows is no more certain.
        packet.sure = false;
        packet.may_have_ended |= way == Way::Ended;
        None
    }

    fn call(&mut self, kind: &str, target: &str, meets: Truth, packet: &mut Packet) -> Option<Way> {
        let outcome = self.chain(target, packet.mark);
        let certain = packet.sure && meets == Yes;
        for ((place, deed), sure) in &outcome.effects {
            packet.add(place.clone(), deed.clone(), certain && *sure);
        }
        if let Some((mark, place)) = &outcome.marked {
            packet.mark(place.clone(), *mark, meets);
        }
        let ends_in_there = outcome.may_have_ended || outcome.way == Way::Ended;
        if meets == Yes && (kind == "goto" || outcome.way == Way::Ended) {
            packet.may_have_ended |= outcome.may_have_ended;
            return Some(outcome.way);
        }
        // Gone in or not, where it comes out again what follows is as certain as before.
        packet.sure &= kind == "jump" && !ends_in_there;
        packet.may_have_ended |= ends_in_there;
        None
    }

    fn by_map(
        &mut self,
        place: &Place,
        body: &Value,
        meets: Truth,
        packet: &mut Packet,
    ) -> Option<Way> {
        let table = self.table;
        for pair in table.elements(&body["data"]) {
            self.steps += 1;
            let key = self.same(&body["key"], &pair[0], packet.mark).min(meets);
            let verdict = pair[1].as_object().and_then(|object| object.iter().next());
            if let (Yes | Maybe, Some((kind, body))) = (key, verdict) {
                let way = self.verdict(place, (kind, body), key, packet);
                if way.is_some() {
                    return way;
                }
            }
        }
        None
    }

    fn matches(&mut self, body: &Value, mark: Option<u64>) -> Truth {
        // A rule on another protocol's header does not match, whatever it asks of it.
        let (left, right) = (&body["left"], &body["right"]);
        if is_other_protocol(self.facts, left) {
            return No;
        }
        match body["op"].as_str() {
            Some("==" | "in") => self.same(left, right, mark),
            Some("!=") => self.same(left, right, mark).not(),
            Some(operator) => {
                let fact = name_of(left).and_then(|name| self.facts.get(name));
                fact.map_or(Maybe, |fact| fact.compares(operator, right))
            }
            None => Maybe,
        }
    }

    /// Whether what `left` takes from the packet is `right`, or among it.
    fn same(&mut self, left: &Value, right: &Value, mark: Option<u64>) -> Truth {
        let several = matches!(right, Value::Array(_))
            || right.get("set").is_some()
            || right.as_str().is_some_and(|name| name.starts_with('@'));
        if several {
            let table = self.table;
            let elements = table.elements(right);
            self.steps += elements.len();
            let each = elements.into_iter().map(|one| self.same(left, one, mark));
            return each.max().unwrap_or(No);
        }
        if let Some(value) = right["elem"].get("val") {
            return self.same(left, value, mark);
        }
        if let (Some(lefts), Some(rights)) = (left["concat"].as_array(), right["concat"].as_array())
        {
            let mut parts = Vec::new();
            for (left, right) in lefts.iter().zip(rights) {
                parts.push(self.same(left, right, mark));
            }
            return parts.into_iter().min().unwrap_or(Maybe);
        }
        match name_of(left) {
            Some(name @ ("mark" | "ct mark")) => {
                let known = if name == "mark" { mark } else { number(left, mark, self.facts) };
                known.map_or(Maybe, |known| super::facts::Fact::Number(known).is(right))
            }
            Some(name) => self.facts.get(name).map_or(Maybe, |fact| fact.is(right)),
            None => number(left, mark, self.facts)
                .map_or(Maybe, |known| super::facts::Fact::Number(known).is(right)),
        }
    }
}
