//! The latest outage of each endpoint, with the signs that speak for its cause.

use web::Exposition;

use super::{endpoint, flag, number};
use crate::collect::PathView;
use crate::outage::Outage;

/// Of each endpoint's latest outage; the rules of `vpn-egress-ids` name its cause.
pub fn about(page: &mut Exposition, views: &[PathView]) {
    type Value = fn(&Outage) -> Option<f64>;
    let families: [(&str, &str, Value); 5] = [
        (
            "vpn_egress_latest_outage_timestamp_seconds",
            "Unix time at which the endpoint's latest outage began.",
            |outage| Some(number(outage.onset_at.0)),
        ),
        (
            "vpn_egress_latest_outage_ongoing",
            "Whether the endpoint's latest outage lasts.",
            |outage| Some(flag(outage.lasted.is_none())),
        ),
        (
            "vpn_egress_latest_outage_duration_seconds",
            "How long the endpoint's latest outage lasted; missing while it lasts.",
            |outage| outage.lasted.map(|lasted| lasted.as_secs_f64()),
        ),
        (
            "vpn_egress_latest_outage_sent_bytes",
            "Bytes sent before the endpoint's latest outage, since the switch to it or the one before.",
            |outage| Some(number(outage.sent_bytes)),
        ),
        (
            "vpn_egress_latest_outage_throughput_bytes_per_second",
            "Mean rate of sending over the five minutes before the endpoint's latest outage.",
            |outage| Some(outage.throughput),
        ),
    ];
    for (name, help, value) in families {
        let mut family = page.gauge(name, help);
        for view in views {
            for (name, outage) in view.shown.outages.latest() {
                if let Some(value) = value(outage) {
                    family.sample(&endpoint(view, name), value);
                }
            }
        }
    }
    let mut signs = page.gauge(
        "vpn_egress_latest_outage_sign",
        "What was seen in the endpoint's latest outage, beside the silent tunnel; unknown is missing.",
    );
    for view in views {
        for (name, outage) in view.shown.outages.latest() {
            for (sign, seen) in outage.signs.named() {
                let [path, endpoint] = endpoint(view, name);
                if let Some(seen) = seen {
                    signs.sample(&[path, endpoint, ("sign", sign)], flag(seen));
                }
            }
        }
    }
    let mut half_open = page.counter(
        "vpn_egress_half_open_seconds_total",
        "Time in which the tunnel sent and received nothing at all, from cycle to cycle.",
    );
    for view in views {
        for one in &view.path.endpoints {
            let time = view.shown.outages.half_open(&one.name);
            half_open.sample(&endpoint(view, &one.name), time.as_secs_f64());
        }
    }
}
