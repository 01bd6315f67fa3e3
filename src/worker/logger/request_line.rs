//! The line of a relayed request, or of a correction, made from its record.
//!
//! In: a [`Record`]. Out: one line at `info`, dated by the end of the request. Never: anything that the ledger has not.

use super::line::Line;
use crate::base::clock::MICROSECOND;
use crate::base::log::{Level, LogFormat};
use crate::usage::record::Record;

/// Appends the line of a request, or of a part of a WebSocket session.
pub fn write(out: &mut Vec<u8>, format: LogFormat, record: &Record) {
    let ended_at = record.started_at.saturating_add(record.duration_us.saturating_mul(MICROSECOND));
    let mut line = Line::begin(out, format, ended_at, Level::Info, "request");
    line.text("user", &record.user);
    if let Some(team) = &record.team {
        line.text("team", team);
    }
    if let Some(id) = record.key_id {
        line.number("key_id", id);
    }
    if !record.model_name().is_empty() {
        line.text("model", record.model_name());
    }
    line.text("endpoint", record.endpoint.as_str());
    line.number("status", record.status);
    line.text("outcome", record.outcome.as_str());
    line.number("stream", record.stream);
    line.text("usage_source", record.usage_source.as_str());
    line.number("input_tokens", record.counted(|usage| usage.input_tokens));
    line.number("cached_input_tokens", record.counted(|usage| usage.cached_input_tokens));
    line.number("output_tokens", record.counted(|usage| usage.output_tokens));
    if let Some(nano_usd) = record.counted_nano_usd() {
        line.decimal("cost_usd", nano_usd, 9);
    }
    line.decimal("duration_ms", record.duration_us, 3);
    if let Some(first_byte_us) = record.first_byte_us {
        line.decimal("first_byte_ms", first_byte_us, 3);
    }
    if let Some(id) = &record.upstream_request_id {
        line.text("request_id", id);
    }
    line.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::{Correction, Endpoint, Usage, UsageSource};

    #[test]
    fn a_request_in_both_formats() {
        let record = Record {
            started_at: 1_795_426_200_000_000_000,
            user: "user 123".into(),
            endpoint: Endpoint::ChatCompletions,
            model_requested: Some("gpt-4o-mini".into()),
            stream: true,
            status: 200,
            usage_source: UsageSource::Reported,
            usage: Usage { input_tokens: 8, output_tokens: 9, ..Usage::default() },
            cost_nano_usd: Some(6_600),
            duration_us: 612_034,
            first_byte_us: Some(1_000),
            upstream_request_id: Some("req_1".into()),
            ..Record::default()
        };
        let written = |format, record: &Record| {
            let mut out = Vec::new();
            write(&mut out, format, record);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(LogFormat::Logfmt, &record),
            "ts=2026-11-23T09:30:00.612Z level=info msg=request user=\"user 123\" model=gpt-4o-mini \
             endpoint=chat/completions status=200 outcome=completed stream=true usage_source=reported input_tokens=8 \
             cached_input_tokens=0 output_tokens=9 cost_usd=0.0000066 duration_ms=612.034 first_byte_ms=1 \
             request_id=req_1\n"
        );
        let json: serde_json::Value = serde_json::from_str(&written(LogFormat::Json, &record)).unwrap();
        assert_eq!(json["cost_usd"], 0.000_006_6);
        assert_eq!((json["status"].as_u64(), json["stream"].as_bool()), (Some(200), Some(true)));
        let taken_back = Correction { less: record.usage, less_nano_usd: 6_600, gives_price: false };
        let nothing = Record { usage: Usage::default(), cost_nano_usd: Some(0), ..record.clone() };
        let correction = written(LogFormat::Logfmt, &Record { correction: Some(Box::new(taken_back)), ..nothing });
        assert!(correction.contains(" input_tokens=-8 cached_input_tokens=0 output_tokens=-9 cost_usd=-0.0000066 "));
        let of_team = written(LogFormat::Logfmt, &Record { team: Some("研究室".into()), ..record.clone() });
        assert!(of_team.contains(" user=\"user 123\" team=研究室 model="), "{of_team}");
        let unknown = written(LogFormat::Logfmt, &Record { cost_nano_usd: None, first_byte_us: None, ..record });
        assert!(!unknown.contains("cost_usd") && !unknown.contains("first_byte"), "{unknown}");
        assert!(!unknown.contains("team="), "{unknown}");
    }
}
