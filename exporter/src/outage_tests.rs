use egress::health::DownReason;

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

fn name(text: &str) -> EndpointName {
    text.parse().expect("a name")
}

fn answered() -> Asked {
    let completed = HandshakeOutcome::Completed { took: Duration::from_millis(9) };
    Asked { handshake: Some(completed), echo: Some(true), failed: false }
}

fn silent() -> Asked {
    Asked { handshake: Some(HandshakeOutcome::NoAnswer), echo: Some(true), failed: false }
}

/// A path that sends a megabyte a cycle, and what its outages look like.
struct Story {
    outages: Outages,
    now: Uptime,
    traffic: Traffic,
    events: Vec<Event>,
}

impl Story {
    fn new() -> Self {
        let traffic = Traffic { sent: 0, received: 0 };
        Self { outages: Outages::default(), now: Uptime::now(), traffic, events: Vec::new() }
    }

    fn cycles(&mut self, count: u32, active: &str, verdict: &Verdict) -> &mut Self {
        for _ in 0..count {
            self.now = self.now + INTERVAL;
            self.traffic.sent += 1_000_000;
            if *verdict == Verdict::Up {
                self.traffic.received += 1000;
            }
            let active = &name(active);
            let traffic = Some(self.traffic);
            let seen = Seen { now: self.now, interval: INTERVAL, active, verdict, traffic };
            self.events.extend(self.outages.cycle(&seen));
        }
        self
    }

    fn up(&mut self, count: u32, active: &str) -> &mut Self {
        self.cycles(count, active, &Verdict::Up)
    }

    fn down(&mut self, count: u32, active: &str) -> &mut Self {
        self.cycles(count, active, &Verdict::TunnelDown(DownReason::Unreachable))
    }

    fn asked(&mut self, endpoint: &str, asked: &Asked, in_use: bool) -> &mut Self {
        let event = self.outages.asked(&name(endpoint), asked, in_use, self.now);
        self.events.extend(event);
        self
    }

    fn switch(&mut self) -> &mut Self {
        self.traffic = Traffic { sent: 0, received: 0 };
        self
    }

    fn of(&self, endpoint: &str) -> &Outage {
        self.outages.latest.get(&name(endpoint)).expect("an outage")
    }
}

#[test]
fn an_outage_knows_what_was_sent_before_and_how_fast() {
    let mut story = Story::new();
    story.up(10, "a").down(1, "a");
    assert_eq!(story.of("a").sent_bytes, 10_000_000);
    assert!((story.of("a").throughput - 200_000.0).abs() < 1.0, "{:?}", story.of("a"));
    story.down(2, "a").up(4, "a").down(1, "a");
    assert_eq!(story.of("a").sent_bytes, 6_000_000, "since the last onset");
    assert_eq!(story.events.len(), 3, "began, ended, began: {:?}", story.events);
}

#[test]
fn what_was_sent_before_a_switch_is_of_another_flow() {
    let mut story = Story::new();
    story.up(10, "a").switch().up(3, "b").down(1, "b");
    assert_eq!(story.of("b").sent_bytes, 3_000_000);
}

#[test]
fn an_outage_is_measured_on_after_a_failover() {
    let mut story = Story::new();
    story.up(3, "a").down(3, "a").switch().up(57, "b").asked("a", &silent(), false);
    assert_eq!(story.of("a").lasted, None);
    story.asked("a", &answered(), false);
    let lasted = INTERVAL * 59;
    assert_eq!(story.of("a").lasted, Some(lasted));
    assert_eq!(story.events.last(), Some(&Event::Ended { endpoint: name("a"), lasted }));
    story.asked("a", &silent(), false);
    assert_eq!(story.of("a").lasted, Some(lasted), "it has ended");
}

#[test]
fn the_signs_of_a_block_by_flow() {
    let mut story = Story::new();
    story.up(3, "a").asked("a", &answered(), true).down(2, "a");
    story.asked("a", &answered(), true).asked("b", &answered(), false);
    let signs = story.of("a").signs;
    let wanted = Signs {
        handshake: Some(true),
        refused: Some(false),
        echo: Some(true),
        standby: Some(true),
        received: Some(false),
        uplink_down: false,
    };
    assert_eq!(signs, wanted);
    assert_eq!(story.of("a").lasted, None, "the device's own flow is dead still");
}

#[test]
fn a_silent_endpoint_a_refusal_and_a_dead_uplink_are_told_apart() {
    let mut story = Story::new();
    story.up(3, "a").down(1, "a").asked("a", &silent(), true).asked("b", &silent(), false);
    let signs = story.of("a").signs;
    assert_eq!(
        (signs.handshake, signs.refused, signs.standby),
        (Some(false), Some(false), Some(false))
    );
    assert_eq!(signs.echo, None, "it never answered one, so silence says nothing");
    story.asked("c", &answered(), false).asked("b", &silent(), false);
    assert_eq!(story.of("a").signs.standby, Some(true), "one that answers is enough");
    story.cycles(1, "a", &Verdict::UplinkDown("no carrier".into()));
    assert!(story.of("a").signs.uplink_down);

    let refused = HandshakeOutcome::Refused("refused".into());
    let mut story = Story::new();
    story.up(3, "a").down(1, "a");
    story.asked("a", &Asked { handshake: Some(refused), echo: Some(true), failed: false }, true);
    assert_eq!(story.of("a").signs.refused, Some(true));
    story.asked("a", &silent(), true);
    assert_eq!(story.of("a").signs.refused, Some(true), "hosts say no only so often");
}

#[test]
fn what_comes_in_after_the_onset_is_a_sign_too() {
    let mut story = Story::new();
    story.up(3, "a").down(2, "a");
    assert_eq!(story.of("a").signs.received, Some(false));
    story.traffic.received += 32;
    story.down(1, "a");
    assert_eq!(story.of("a").signs.received, Some(true));

    let mut story = Story::new();
    story.up(3, "a").down(3, "a");
    story.traffic.received += 148;
    story.down(1, "a");
    assert_eq!(story.of("a").signs.received, Some(false), "the server shakes hands by itself");
}

#[test]
fn half_open_time_is_sent_without_received() {
    let mut story = Story::new();
    story.up(3, "a").down(3, "a").up(2, "a");
    assert_eq!(story.outages.half_open(&name("a")), INTERVAL * 3);
}

#[test]
fn only_what_was_up_can_go_down() {
    let mut story = Story::new();
    story.down(3, "a");
    assert_eq!(story.events, [], "just started: nobody saw it go down");
    story.up(1, "a");
    story.now = story.now + INTERVAL * 10;
    story.down(1, "a");
    assert_eq!(story.events, [], "the machine slept");
    story.up(1, "a").cycles(1, "a", &Verdict::Unknown("why".into())).down(1, "a");
    assert_eq!(story.events, []);
    story.up(1, "a").down(1, "a");
    assert_eq!(story.events.len(), 1);
}

#[test]
fn an_endpoint_is_watched_closely_while_its_end_can_tell_something() {
    let mut story = Story::new();
    story.up(1, "a").down(1, "a");
    assert!(story.outages.watches(&name("a"), story.now));
    assert!(!story.outages.watches(&name("b"), story.now));
    assert!(!story.outages.watches(&name("a"), story.now + WATCHED));
    story.outages.retain(|_| false);
    assert!(!story.outages.watches(&name("a"), story.now), "no longer configured");
}
