//! A comparison with the provider's own books in words, and as text, JSON or CSV.
//!
//! In: a [`Comparison`]. Out: what a person or a program reads. Never: a colour, more rows of text than a screen or two
//! has.

use super::humanize::{day, grouped, money};
use super::language::Language;
use super::text_table::{Column, fitted, table};
use super::usage_report::write_csv_text;
use crate::base::clock::{HOUR, SECOND};
use crate::base::digits::write_decimal;
use crate::base::visible::visible;
use crate::reconcile::{Book, CellKey, Comparison, Quantity, Reason, Row, ToldPrice, Total, Verdict, Width};
use serde_json::{Value, json};

/// Rows of text.
const ROWS_MAX: usize = 40;

/// What was compared.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'c> {
    /// Seconds since the Unix epoch, half-open.
    pub from: u64,
    pub to: u64,
    pub width: Width,
    pub tolerance_ppm: u64,
    /// Whose books: all of the organisation's, if neither keys nor projects were named.
    pub is_filtered: bool,
    pub found: &'c Comparison,
}

/// Why, in a few words.
pub fn why(language: Language, reason: &Reason) -> String {
    let count = |count: &u64| grouped(*count);
    match reason {
        Reason::Open => language.say("the books may still change").to_owned(),
        Reason::BatchTime => language.say("a batch counts here when it is looked at, there when it runs").to_owned(),
        Reason::NotKnownHere => language.say("not known here").to_owned(),
        Reason::NotKnownThere => language.say("not known there").to_owned(),
        Reason::OnlyThere => language.say("only there: spent beside the proxy").to_owned(),
        Reason::Beside(more) => language.fill("{0} requests more there: spent beside the proxy", &[&count(more)]),
        Reason::OnlyHere => language.say("only here: another key's, or not booked").to_owned(),
        Reason::Fewer(fewer) => {
            language.fill("{0} requests fewer there: another key's, or not booked", &[&count(fewer)])
        }
        Reason::Estimated(of, None) => language.fill("{0} requests here are estimated", &[&count(of)]),
        Reason::Estimated(of, Some(explains)) => {
            language.fill("{0} requests here are estimated: up to {1} of it", &[&count(of), &count(explains)])
        }
        Reason::Unknown(of) => language.fill("the usage of {0} requests here is unknown", &[&count(of)]),
        Reason::Unpriced(of) => language.fill("{0} requests here have no price", &[&count(of)]),
        Reason::Price(item) => language.fill("another price: {0}", &[&visible(item)]),
        Reason::Usage => language.say("its usage differs").to_owned(),
        Reason::NoneKnown => language.say("no reason is known").to_owned(),
    }
}

/// All reasons of a row.
pub fn reasons(language: Language, row: &Row) -> String {
    row.reasons.iter().map(|reason| why(language, reason)).collect::<Vec<_>>().join("; ")
}

/// An amount as a person reads it; `–` where it is not known.
pub fn amount(quantity: Quantity, amount: Option<u64>) -> String {
    match (amount, quantity) {
        (None, _) => "–".to_owned(),
        (Some(amount), Quantity::Cost) => money(amount),
        (Some(amount), _) => match quantity.scale() {
            0 => grouped(amount),
            scale => decimal(amount, scale),
        },
    }
}

/// How much more is there.
pub fn difference(row: &Row) -> String {
    let difference = row.difference();
    let size = u64::try_from(difference.unsigned_abs()).unwrap_or(u64::MAX);
    format!("{}{}", if difference < 0 { "-" } else { "+" }, amount(row.quantity, Some(size)))
}

/// A part of the whole in per cent, with as many digits as tell something.
pub fn percent(ratio: f64) -> String {
    match ratio * 100.0 {
        percent if percent <= 0.0 => "0%".to_owned(),
        percent if percent < 0.01 => "<0.01%".to_owned(),
        percent if percent < 10.0 => format!("{percent:.2}%"),
        percent => format!("{percent:.0}%"),
    }
}

/// A price that is another, with both.
pub fn price(language: Language, (item, unit, theirs, ours): &ToldPrice) -> String {
    let (item, theirs) = (visible(item), format!("${theirs}"));
    match ours {
        Some(ours) => {
            language.fill("{0}: {1} for {2} there, {3} in our table", &[&item, &theirs, unit, &format!("${ours}")])
        }
        None => language.fill("{0}: {1} for {2} there, none in our table", &[&item, &theirs, unit]),
    }
}

/// The start of a bucket.
pub fn bucket(book: Book, width: Width, start: u64) -> String {
    let date = day(start.saturating_mul(SECOND));
    match book.width(width) {
        Width::Day => date,
        Width::Hour => format!("{date} {:02}:00", start.saturating_mul(SECOND) / HOUR % 24),
    }
}

fn decimal(value: u64, scale: u32) -> String {
    let mut out = Vec::new();
    write_decimal(&mut out, value, scale);
    String::from_utf8_lossy(&out).into_owned()
}

impl Compared<'_> {
    /// For a terminal of so many columns, if it is one.
    pub fn text(&self, columns: Option<usize>) -> String {
        let (found, english) = (self.found, Language::English);
        let unit = if self.width == Width::Hour { "hour" } else { "day" };
        let [from, to] = [self.from, self.to].map(|second| day(second.saturating_mul(SECOND)));
        let tolerance = percent(self.tolerance_ppm as f64 / 1e6);
        let whose = if self.is_filtered { "of the keys and projects named" } else { "of the whole organisation" };
        let mut out = format!("{from} to before {to} (UTC), by {unit}; within {tolerance} both agree\n");
        out.push_str(&format!("here: the ledger; there: OpenAI's own books {whose}\n\n"));
        out.push_str(&totals(found));
        let counted = |verdict| grouped(found.counted(verdict));
        out.push_str(&format!(
            "\n{} agree, {} differ, {} cannot be known, {} are open (the books may still change)\n",
            counted(Verdict::Agrees),
            counted(Verdict::Differs),
            counted(Verdict::Unknown),
            counted(Verdict::Open)
        ));
        if !found.rows.is_empty() {
            out.push('\n');
            out.push_str(&self.rows(columns));
        }
        if !found.beside.is_empty() {
            out.push_str("\nSpent beside the proxy:\n");
        }
        for ((book, model), of) in found.beside.iter().take(ROWS_MAX) {
            let since = bucket(*book, self.width, of.since);
            let quantity = book.quantities()[0];
            let (model, much) = (visible(model), amount(quantity, Some(of.amount)));
            let model = if model.is_empty() { "" } else { &format!(" {model}") };
            out.push_str(&format!("  {}{model}: {} {much}, since {since}\n", book.label(), quantity.label()));
        }
        if !found.prices.is_empty() {
            out.push_str("\nPrices:\n");
        }
        let mut prices: Vec<_> = found.prices.values().map(|of| price(english, &of.told())).collect();
        prices.dedup();
        prices.iter().take(ROWS_MAX).for_each(|line| out.push_str(&format!("  {line}\n")));
        out
    }

    fn rows(&self, columns: Option<usize>) -> String {
        let mut rows: Vec<&Row> = self.found.rows.iter().collect();
        rows.sort_by_key(|row| row.verdict);
        let line = |row: &Row| {
            let CellKey { start, book, model } = &row.key;
            let model = if model.is_empty() { "-" } else { model };
            let (quantity, what) = (row.quantity, format!("{} {}", book.label(), row.quantity.label()));
            let [ours, theirs] = [row.ours, row.theirs].map(|of| amount(quantity, of));
            let start = bucket(*book, self.width, *start);
            vec![start, model.to_owned(), what, ours, theirs, difference(row), reasons(Language::English, row)]
        };
        let shown: Vec<_> = rows.iter().take(ROWS_MAX).map(|row| line(row)).collect();
        let [here, there, more] = ["HERE", "THERE", "MORE"].map(Column::Right);
        let [start, model, what] = [Column::Whole("START"), Column::Left("MODEL"), Column::Left("WHAT")];
        let heads = [start, model, what, here, there, more, Column::Left("WHY")];
        let mut out = fitted(&heads, &shown, columns.unwrap_or(usize::MAX), &[]);
        let left = (rows.len() - shown.len()) as u64 + self.found.rows_left_out;
        if left > 0 {
            out.push_str(&format!("{} more: --format csv has them\n", grouped(left)));
        }
        out
    }

    /// One document.
    pub fn json(&self) -> String {
        let found = self.found;
        let [from, to] = [self.from, self.to].map(|second| day(second.saturating_mul(SECOND)));
        let totals = found.totals.iter().map(|(quantity, total)| {
            let Total { ours, theirs, .. } = total;
            let document = json!({
                "ours": number(*quantity, Some(*ours)), "theirs": number(*quantity, Some(*theirs)),
                "difference_ratio": total.ratio(),
            });
            (quantity.label().to_owned(), document)
        });
        let rows = found.rows.iter().map(|row| {
            let CellKey { start, book, model } = &row.key;
            json!({
                "start": bucket(*book, self.width, *start), "book": book.label(), "model": model,
                "quantity": row.quantity.label(), "ours": number(row.quantity, row.ours),
                "theirs": number(row.quantity, row.theirs), "verdict": verdict(row.verdict),
                "why": row.reasons.iter().map(Reason::document).collect::<Vec<_>>(),
            })
        });
        let beside = found.beside.iter().map(|((book, model), of)| {
            let quantity = book.quantities()[0];
            json!({
                "book": book.label(), "model": model, "quantity": quantity.label(),
                "more": number(quantity, Some(of.amount)), "since": bucket(*book, self.width, of.since),
            })
        });
        let prices = found.prices.iter().map(|((start, _), of)| {
            json!({
                "day": bucket(Book::Costs, self.width, *start), "item": of.item, "unit": of.unit,
                "theirs_usd": of.theirs, "ours_usd": of.ours,
            })
        });
        let counts = [Verdict::Agrees, Verdict::Differs, Verdict::Unknown, Verdict::Open];
        let counts = counts.map(|of| (verdict(of).to_owned(), Value::from(found.counted(of))));
        let document = json!({
            "from": from, "to": to, "by": if self.width == Width::Hour { "hour" } else { "day" },
            "tolerance_ratio": self.tolerance_ppm as f64 / 1e6, "agrees": found.agrees(),
            "counts": Value::Object(counts.into_iter().collect()), "totals": Value::Object(totals.collect()),
            "rows": rows.collect::<Vec<_>>(), "rows_left_out": found.rows_left_out,
            "beside": beside.collect::<Vec<_>>(), "prices": prices.collect::<Vec<_>>(),
        });
        format!("{document:#}\n")
    }

    /// The rows that do not agree, for a spreadsheet (RFC 4180).
    pub fn csv(&self) -> String {
        let mut out = b"start,book,model,quantity,ours,theirs,verdict,why\r\n".to_vec();
        for row in &self.found.rows {
            let CellKey { start, book, model } = &row.key;
            let plain = |of: Option<u64>| of.map(|of| decimal(of, row.quantity.scale())).unwrap_or_default();
            let (start, why) = (bucket(*book, self.width, *start), reasons(Language::English, row));
            let (ours, theirs) = (plain(row.ours), plain(row.theirs));
            let cells = [&start, book.label(), model, row.quantity.label(), &ours, &theirs, verdict(row.verdict), &why];
            for (place, cell) in cells.into_iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_csv_text(&mut out, cell);
            }
            out.extend_from_slice(b"\r\n");
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn totals(found: &Comparison) -> String {
    let line = |(quantity, total): (&Quantity, &Total)| {
        let [ours, theirs] = [total.ours, total.theirs].map(|of| amount(*quantity, Some(of)));
        vec![quantity.label().to_owned(), ours, theirs, percent(total.ratio())]
    };
    let [here, there, apart] = ["HERE", "THERE", "APART"].map(Column::Right);
    let used = found.totals.iter().filter(|(_, total)| total.ours > 0 || total.theirs > 0);
    table(&[Column::Left("IN ALL"), here, there, apart], &used.map(line).collect::<Vec<_>>())
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Agrees => "agrees",
        Verdict::Differs => "differs",
        Verdict::Unknown => "unknown",
        Verdict::Open => "open",
    }
}

/// In the unit that people read it in.
fn number(quantity: Quantity, amount: Option<u64>) -> Value {
    match (amount, quantity.scale()) {
        (None, _) => Value::Null,
        (Some(amount), 0) => amount.into(),
        (Some(amount), scale) => (amount as f64 / 10f64.powi(scale.cast_signed())).into(),
    }
}
