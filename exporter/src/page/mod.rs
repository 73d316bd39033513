//! The metrics and their help texts. A series that could not be read is left out: never zero (S7).

mod outages;

use egress::firewall::Count;
use egress::health::{Probe, Uplink, Verdict};
use egress::names::EndpointName;
use egress::probe::HandshakeOutcome;
use web::Exposition;

use crate::collect::{Collector, PathView};
use crate::exemption::Look;
use crate::histograms::Histograms;
use crate::totals::Total;

type Labels<'a> = [(&'a str, &'a str); 2];

pub fn render(
    views: &[PathView],
    exemption: Option<Look>,
    collectors: &[Collector],
    histograms: &Histograms,
) -> String {
    let mut page = Exposition::new();
    page.gauge("vpn_egress_build_info", "Version of the exporter; always 1.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    about_collectors(&mut page, collectors);
    about_endpoints(&mut page, views);
    outages::about(&mut page, views);
    page.extend(histograms.families());
    about_tunnel(&mut page, views);
    about_cycles(&mut page, views);
    about_uplinks(&mut page, views);
    about_walls(&mut page, views);
    about_exemption(&mut page, exemption);
    page.render()
}

fn about_collectors(page: &mut Exposition, collectors: &[Collector]) {
    let mut success = page.gauge(
        "vpn_egress_collector_success",
        "Whether the collector got all that it asked for; where 0, its series are missing.",
    );
    for one in collectors {
        success.sample(&[("collector", one.name)], flag(one.failed.is_none()));
    }
    let mut duration = page.gauge(
        "vpn_egress_collector_duration_seconds",
        "How long the collector took: at this scrape, or in the latest cycle where it probes.",
    );
    for one in collectors {
        duration.sample(&[("collector", one.name)], one.took.as_secs_f64());
    }
}

fn endpoint<'a>(view: &'a PathView, name: &'a EndpointName) -> Labels<'a> {
    [("path", view.path.name.as_str()), ("endpoint", name.as_str())]
}

fn about_endpoints(page: &mut Exposition, views: &[PathView]) {
    let mut info = page.gauge(
        "vpn_egress_endpoint_info",
        "A configured endpoint; the first one listed is the primary. Always 1.",
    );
    for view in views {
        for (position, one) in view.path.endpoints.iter().enumerate() {
            let role = if position == 0 { "primary" } else { "backup" };
            let address = one.address.to_string();
            let [path, endpoint] = endpoint(view, &one.name);
            let interface = ("interface", view.path.interface.as_str());
            let labels = [path, endpoint, ("role", role), ("address", &address), interface];
            info.sample(&labels, 1.0);
        }
    }
    let mut active = page.gauge(
        "vpn_egress_endpoint_active",
        "Whether this is the path's active endpoint, by the state on record.",
    );
    for view in views.iter().filter(|view| view.sight.state.is_ok()) {
        let chosen = view.sight.active(view.path).map(|endpoint| &endpoint.name);
        for one in &view.path.endpoints {
            active.sample(&endpoint(view, &one.name), flag(chosen == Some(&one.name)));
        }
    }
    let mut reachable = page.gauge(
        "vpn_egress_endpoint_reachable",
        "Whether the endpoint completed a WireGuard handshake with a fresh socket (of standbys, and of \
         the active endpoint while its tunnel does not answer), or answered an ICMP echo.",
    );
    for view in views {
        for (name, asked) in &view.shown.reachable {
            let [path, endpoint] = endpoint(view, name);
            if let Some(outcome) = &asked.handshake {
                let completed = matches!(outcome, HandshakeOutcome::Completed { .. });
                reachable.sample(&[path, endpoint, ("method", "handshake")], flag(completed));
            }
            if let Some(answered) = asked.echo {
                reachable.sample(&[path, endpoint, ("method", "icmp")], flag(answered));
            }
        }
    }
    let mut took = page.gauge(
        "vpn_egress_endpoint_probe_duration_seconds",
        "How long the endpoint's latest completed handshake probe took.",
    );
    for view in views {
        for (name, asked) in &view.shown.reachable {
            if let Some(HandshakeOutcome::Completed { took: duration }) = &asked.handshake {
                took.sample(&endpoint(view, name), duration.as_secs_f64());
            }
        }
    }
}

fn about_tunnel(page: &mut Exposition, views: &[PathView]) {
    let per_active = |page: &mut Exposition, name, help, counter, value: fn(&PathView) -> _| {
        let mut family = if counter { page.counter(name, help) } else { page.gauge(name, help) };
        for view in views {
            if let (Some(live), Some(value)) = (view.live, value(view)) {
                family.sample(&endpoint(view, live), value);
            }
        }
    };

    per_active(
        page,
        "vpn_egress_handshake_timestamp_seconds",
        "Unix time of the latest handshake with the live endpoint; 0 is never.",
        false,
        |view| {
            let at = view.sight.device.as_ref().ok()?.peer()?.last_handshake;
            let since = at.map(|at| at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default());
            Some(since.unwrap_or_default().as_secs_f64())
        },
    );
    per_active(
        page,
        "vpn_egress_handshake_age_seconds",
        "Time since the latest handshake with the live endpoint; +Inf is never.",
        false,
        |view| Some(view.handshake_age.map_or(f64::INFINITY, |age| age.as_secs_f64())),
    );

    per_active(
        page,
        "vpn_egress_receive_bytes_total",
        "Bytes received from the live endpoint, by the device; starts anew with a switch.",
        true,
        |view| Some(number(view.sight.device.as_ref().ok()?.peer()?.received_bytes)),
    );
    per_active(
        page,
        "vpn_egress_transmit_bytes_total",
        "Bytes sent to the live endpoint, by the device; starts anew with a switch.",
        true,
        |view| Some(number(view.sight.device.as_ref().ok()?.peer()?.sent_bytes)),
    );
    let mut success = page.gauge(
        "vpn_egress_tunnel_probe_success",
        "Whether the latest cycle's probe was answered through the tunnel.",
    );
    for view in views {
        let answered = match view.shown.probe() {
            Some(Probe::Answered) => true,
            Some(Probe::Silent { .. }) => false,
            // Not made is not failed.
            Some(Probe::Off | Probe::Unknown(_)) | None => continue,
        };
        success.sample(&[("path", view.path.name.as_str())], flag(answered));
    }
    let mut took = page.gauge(
        "vpn_egress_tunnel_probe_duration_seconds",
        "From the first try of the latest cycle's probe through the tunnel to its answer.",
    );
    for view in views {
        let cycle = view.shown.last.as_ref().map(|(_, cycle)| cycle);
        if let Some(duration) = cycle.and_then(|cycle| cycle.probe_took) {
            took.sample(&[("path", view.path.name.as_str())], duration.as_secs_f64());
        }
    }
    let mut large = page.gauge(
        "vpn_egress_tunnel_large_probe_success",
        "Whether an echo as large as the tunnel's MTU was answered, where a small one is.",
    );
    for view in views {
        if let Some(passes) = view.shown.large {
            large.sample(&[("path", view.path.name.as_str())], flag(passes));
        }
    }
}

fn about_cycles(page: &mut Exposition, views: &[PathView]) {
    let mut cycles = page.counter("vpn_egress_cycles_total", "Health cycles by their verdict.");
    for view in views {
        for verdict in Verdict::WORDS {
            let count = view.shown.counts.get(verdict).copied().unwrap_or(0);
            let labels = [("path", view.path.name.as_str()), ("verdict", verdict)];
            cycles.sample(&labels, number(count));
        }
    }
    let mut down = page.gauge(
        "vpn_egress_consecutive_down_cycles",
        "Length of the present run of tunnel-down cycles; 0 after any other verdict or a switch.",
    );
    for view in views {
        for one in &view.path.endpoints {
            let count = view.shown.down.get(&one.name).copied().unwrap_or(0);
            down.sample(&endpoint(view, &one.name), f64::from(count));
        }
    }
    let mut last = page.gauge(
        "vpn_egress_last_cycle_timestamp_seconds",
        "Unix time at which the latest health cycle ended; 0 is never.",
    );
    for view in views {
        let at = view.shown.last.as_ref().map_or(0, |(at, _)| at.0);
        last.sample(&[("path", view.path.name.as_str())], number(at));
    }
}

fn about_uplinks(page: &mut Exposition, views: &[PathView]) {
    let mut up = page.gauge(
        "vpn_egress_uplink_up",
        "Whether an uplink has carrier and its gateway is not known to be dead.",
    );
    for view in views {
        match view.shown.last.as_ref().map(|(_, cycle)| &cycle.evidence.uplink) {
            Some(Uplink::Up) => up.sample(&[("path", view.path.name.as_str())], 1.0),
            Some(Uplink::Down(_)) => up.sample(&[("path", view.path.name.as_str())], 0.0),
            _ => continue,
        };
    }
    let mut covered = page.gauge(
        "vpn_egress_uplink_covered",
        "Whether the watch is attached to this device, by which packets can leave.",
    );
    for view in views {
        for (device, attached) in view.sight.coverage().unwrap_or_default() {
            let labels = [("path", view.path.name.as_str()), ("device", device.name.as_str())];
            covered.sample(&labels, flag(attached));
        }
    }
}

fn about_walls(page: &mut Exposition, views: &[PathView]) {
    type Pick = fn(&Total) -> Option<Count>;
    let mut count = |name, help, pick: Pick, value: fn(Count) -> u64| {
        let mut family = page.counter(name, help);
        for view in views {
            if let Some(count) = view.total.as_ref().and_then(pick) {
                family.sample(&[("path", view.path.name.as_str())], number(value(count)));
            }
        }
    };
    let (packets, bytes) = (|count: Count| count.packets, |count: Count| count.bytes);
    count(
        "vpn_egress_blocked_packets_total",
        "Packets that the killswitch refused: working as intended, never a leak.",
        |total| total.blocked,
        packets,
    );
    count(
        "vpn_egress_blocked_bytes_total",
        "Bytes that the killswitch refused.",
        |total| total.blocked,
        bytes,
    );
    count(
        "vpn_egress_leaked_packets_total",
        "IP packets that reached an uplink outside the tunnel; the watch dropped them there.",
        |total| total.leaked,
        packets,
    );
    count(
        "vpn_egress_leaked_bytes_total",
        "Bytes that reached an uplink outside the tunnel; the watch dropped them there.",
        |total| total.leaked,
        bytes,
    );
    count(
        "vpn_egress_other_frames_total",
        "Frames that the watch dropped and that are no leak: link-local multicast, other protocols.",
        |total| total.other_frames,
        packets,
    );
    let mut intact = page.gauge(
        "vpn_egress_killswitch_intact",
        "Whether the loaded rules equal those that the last completed load read back.",
    );
    for view in views {
        for (table, same) in view.sight.integrity() {
            intact.sample(&[("path", view.path.name.as_str()), ("table", table)], flag(same));
        }
    }
    let mut guarded = page.gauge(
        "vpn_egress_guarded",
        "Whether the actuator holds copies of both walls that nobody else can change or flush.",
    );
    for view in views.iter().filter(|view| view.sight.walls.is_ok()) {
        guarded.sample(&[("path", view.path.name.as_str())], flag(view.sight.guarded()));
    }
    let mut unlocked = page.gauge(
        "vpn_egress_unlocked",
        "Whether a person took the lock off, by the state on record.",
    );
    for view in views {
        if let Ok(state) = &view.sight.state {
            unlocked.sample(&[("path", view.path.name.as_str())], flag(state.unlocked.is_some()));
        }
    }
    let mut drift = page.gauge(
        "vpn_egress_config_drift",
        "Whether the config on disk asks for other rules than the last load; mend: actuator converge.",
    );
    for view in views {
        if let Some(drifted) = view.drift {
            drift.sample(&[("path", view.path.name.as_str())], flag(drifted));
        }
    }
    let mut walls = page.gauge(
        "vpn_egress_walls",
        "How many walls this kind of workload has: killswitch, and watch where it can see it.",
    );
    for view in views {
        let count = f64::from(view.path.workload.walls());
        walls.sample(&[("path", view.path.name.as_str())], count);
    }
}

fn about_exemption(page: &mut Exposition, look: Option<Look>) {
    let mut present = page.gauge(
        "vpn_egress_ids_exemption_present",
        "Whether the IDS/IPS controller has this host's exemption from inspection.",
    );
    if let Some(there) = look.and_then(|look| look.present) {
        present.sample(&[], flag(there));
    }
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// Counters are floating point in Prometheus; exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}
