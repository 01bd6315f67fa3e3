//! How long questions take on the large ledger, beside the same on the small one. Each on a connection as the query
//! thread has it, from the parameters to the bytes of the answer.
//!
//! In: two ledgers and how many rows each has. Out: a table. Never: a write.

use crate::rows::{YEAR_NS, YEAR_START_NS, user_name};
use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::database;
use openai_api_proxy::local::usage_report::{Format, UsageQuery, to_json};
use openai_api_proxy::reporting::Query;
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is asked, and as what parameters: `{busy}`, `{rare}`: users; `{year}`: a range; `{middle}`: a record's number.
const QUESTIONS: &[(&str, &str)] = &[
    ("totals of a user", "user_id={busy}"),
    ("totals of a user, a year", "user_id={busy}&{year}"),
    ("totals of all", ""),
    ("page from the middle, a user", "user_id={busy}&cursor={middle}"),
    ("page from the middle, all", "cursor={middle}"),
    ("1000 from the middle, all", "cursor={middle}&limit=1000"),
    ("days of a year, a user", "user_id={busy}&group_by=day&{year}"),
    ("days of a year, all", "group_by=day&{year}"),
    ("days of a year, a model", "group_by=day&model=gpt-5-2025-08-07&{year}"),
    ("endpoints of a year, all", "group_by=endpoint&{year}"),
    ("a rare user", "user_id={rare}&limit=1"),
    ("a rare model", "model=o4-mini-2025-04-16"),
    ("users of a year", "group_by=user&{year}"),
    ("hours of a year, all", "group_by=hour&{year}"),
    ("a year but for minutes, all", "group_by=day&from=2025-01-01T00:20:00Z&to=2025-12-31T23:40:00Z"),
    ("a year but for minutes, a user", "user_id={busy}&group_by=day&from=2025-01-01T00:20:00Z&to=2025-12-31T23:40:00Z"),
];

/// A ledger to ask.
pub struct Asked {
    conn: Connection,
    rows: u64,
}

/// What answering took.
struct Answered {
    times: Vec<Duration>,
    bytes: usize,
}

impl Asked {
    pub fn open(path: &Path, rows: u64) -> Result<Self, String> {
        let conn = database::open_reader(path).map_err(|error| error.to_string())?;
        Ok(Self { conn, rows })
    }

    fn query(&self, question: &str) -> Result<Query, String> {
        let seconds = |ns: u64| ns / 1_000_000_000;
        let year = format!("from={}&to={}", seconds(YEAR_START_NS), seconds(YEAR_START_NS + YEAR_NS));
        let raw = question
            .replace("{busy}", &user_name(0))
            .replace("{rare}", &user_name(crate::rows::USERS / 2))
            .replace("{year}", &year)
            .replace("{middle}", &(self.rows / 2).to_string());
        UsageQuery::parse(&raw, YEAR_START_NS + YEAR_NS, Format::Json).map(|asked| asked.query)
    }

    fn ask(&self, query: &Query, answered: &mut Answered) -> Result<(), String> {
        let asked = Instant::now();
        let body = to_json(&report(&self.conn, query.clone()).map_err(|error| error.to_string())?);
        answered.times.push(asked.elapsed());
        answered.bytes = body.len();
        Ok(())
    }
}

/// Asks both in turns, so that what else the machine does meets both alike.
pub fn compare(small: &Asked, large: &Asked, rounds: usize) -> Result<(), String> {
    println!(
        "\nQuestions: median in us, and the bytes of the answer, of {} rows and of {} rows",
        small.rows, large.rows
    );
    println!("{:<34}{:>10}{:>10}{:>10}{:>10}{:>8}", "", "us", "bytes", "us", "bytes", "ratio");
    for (label, question) in QUESTIONS {
        let mut answers = [(); 2].map(|()| Answered { times: Vec::new(), bytes: 0 });
        let queries = [small.query(question)?, large.query(question)?];
        for round in 0..=rounds {
            for ((ledger, query), answered) in [small, large].iter().zip(&queries).zip(&mut answers) {
                ledger.ask(query, answered)?;
                if round == 0 {
                    answered.times.clear(); // pages and statements were read in
                }
            }
        }
        let [small, large] = answers.map(|mut answered| {
            answered.times.sort_unstable();
            (answered.times[answered.times.len() / 2].as_secs_f64() * 1e6, answered.bytes)
        });
        println!(
            "{label:<34}{:>10.0}{:>10}{:>10.0}{:>10}{:>8.2}",
            small.0,
            small.1,
            large.0,
            large.1,
            large.0 / small.0
        );
    }
    Ok(())
}
