//! Bars over time, stacked, as SVG.
//!
//! In: numbers, and labels of ours for the steps. Out: an `svg` element. Never a name that a peer chose: a legend
//! beside the chart has those, escaped.
//!
//! `plotters` writes colours into the picture, where the page's are another by day than by night. So what it writes
//! are marks (`#010000`, …), and the style sheet says which colour each of them is.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height in points: on a screen, and on a phone.
pub const SIZES: [(u32, u32); 2] = [(600, 220), (340, 190)];

/// The mark of a colour of the page's.
const fn mark(colour: u8) -> RGBColor {
    RGBColor(colour + 1, 0, 0)
}

/// The same as the style sheet and a legend name it.
pub fn mark_of(colour: u8) -> String {
    format!("#{:02X}0000", colour + 1)
}
const TEXT: RGBColor = RGBColor(0, 1, 0);
const GRID: RGBColor = RGBColor(0, 2, 0);

/// In the units of the library, which takes a quarter off.
const FONT_SIZE: u32 = 15;
/// Room below the chart for the steps' labels, and to its left for the amounts.
const BELOW: u32 = 24;
const LEFT: u32 = 58;
const MARGIN: u32 = 8;
/// Room that a label needs, points.
const LABEL_WIDTH: u32 = 56;

/// What a chart shows.
pub struct Chart<'a> {
    /// Of each step.
    pub labels: &'a [String],
    /// For each series, lowest first, the value of each step.
    pub series: &'a [Vec<u64>],
    /// Its colour.
    pub colours: &'a [u8],
    /// How an amount on the axis is written.
    pub amount: fn(u64) -> String,
}

impl Chart<'_> {
    /// Draws it; nothing where there is nothing to draw.
    pub fn svg(&self, (width, height): (u32, u32)) -> String {
        let mut out = String::new();
        if self.draw(&mut out, width, height).is_err() {
            out.clear();
        }
        out
    }

    fn draw(&self, out: &mut String, width: u32, height: u32) -> Result<(), Box<dyn std::error::Error>> {
        let heights = |step: usize| self.series.iter().map(move |series| u128::from(series[step])).sum::<u128>();
        let scale = Scale::for_most((0..self.labels.len()).map(heights).max().unwrap_or(0));
        let root = SVGBackend::with_string(out, (width, height)).into_drawing_area();
        let steps = self.labels.len().max(1) as f64;
        // In steps of the scale, so that the library only ever sees small numbers.
        let mut chart = ChartBuilder::on(&root)
            .margin_top(MARGIN)
            .margin_right(MARGIN)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(0.0..steps, 0.0..f64::from(scale.lines))?;
        let font = ("sans-serif", FONT_SIZE).into_font().color(&TEXT);
        let label = |line: &f64| (self.amount)(scale.amount(line.round() as u32));
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_labels(scale.lines as usize + 1)
            .y_label_formatter(&label)
            .label_style(font.clone())
            .axis_style(GRID)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .draw()?;
        for step in 0..self.labels.len() {
            let mut below = 0u128;
            for (series, &colour) in self.series.iter().zip(self.colours) {
                let above = below + u128::from(series[step]);
                let at = |amount: u128| amount as f64 / scale.step as f64;
                let corners = [(step as f64 + 0.12, at(above)), (step as f64 + 0.88, at(below))];
                if above > below {
                    chart.draw_series([Rectangle::new(corners, mark(colour).filled())])?;
                }
                below = above;
            }
        }
        let room = (width - LEFT - MARGIN) / LABEL_WIDTH;
        let every = self.labels.len().div_ceil(room.max(1) as usize).max(1);
        let style = font.pos(Pos::new(HPos::Center, VPos::Top));
        // From the last: now is what people look for.
        for (step, label) in self.labels.iter().enumerate().rev().step_by(every) {
            let (x, y) = chart.as_coord_spec().translate(&(step as f64 + 0.5, 0.0));
            let x = x.min((width - LABEL_WIDTH / 2 + 4) as i32);
            root.draw(&Text::new(label.as_str(), (x, y + 6), style.clone()))?;
        }
        root.present()?;
        Ok(())
    }
}

/// The lines of an axis: nought and up to five more, so that the last is not below the highest bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    /// From one line to the next.
    step: u128,
    lines: u32,
}

impl Scale {
    fn for_most(most: u128) -> Self {
        let mut unit = 1;
        loop {
            for step in [unit, 2 * unit, 5 * unit] {
                if most <= 4 * step {
                    return Self { step, lines: most.div_ceil(step).max(1) as u32 };
                }
            }
            unit *= 10;
        }
    }

    fn amount(self, line: u32) -> u64 {
        u64::try_from(self.step * u128::from(line)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn svg(series: &[Vec<u64>], size: (u32, u32)) -> String {
        let labels: Vec<String> = (0..series[0].len()).map(|step| format!("s{step}")).collect();
        let colours: Vec<u8> = (0..series.len() as u8).collect();
        Chart { labels: &labels, series, colours: &colours, amount: |amount| amount.to_string() }.svg(size)
    }

    #[test]
    fn the_axis_ends_at_or_above_the_highest_bar() {
        for (most, step, lines) in [(0, 1, 1), (1, 1, 1), (4, 1, 4), (5, 2, 3), (9, 5, 2), (41, 20, 3), (400, 100, 4)] {
            assert_eq!(Scale::for_most(most), Scale { step, lines }, "{most}");
        }
    }

    #[test]
    fn each_value_is_a_bar_of_its_series_mark() {
        let drawn = svg(&[vec![1, 0, 3], vec![2, 2, 0]], SIZES[0]);
        assert_eq!(drawn.matches("fill=\"#010000\"").count(), 2, "{drawn}");
        assert_eq!(drawn.matches("fill=\"#020000\"").count(), 2, "{drawn}");
        for label in ["s0", "s1", "s2", "\n0\n", "\n1\n", "\n3\n"] {
            assert!(drawn.contains(label), "{label}: {drawn}");
        }
        let top = |line: &&str| line.contains("#010000");
        let rows: Vec<&str> = drawn.lines().filter(top).collect();
        let number = |row: &str, name: &str| {
            let (_, rest) = row.split_once(&format!(" {name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.parse::<i32>().unwrap()
        };
        let off = number(rows[1], "height") - 3 * number(rows[0], "height");
        assert!(off.abs() <= 3, "three times as high, but for whole points: {drawn}");
    }

    proptest! {
        #[test]
        fn any_numbers_can_be_drawn(
            steps in 1usize..100,
            values in proptest::collection::vec(proptest::collection::vec(any::<u64>(), 100), 1..7),
            shift in 0u32..64,
        ) {
            let series: Vec<Vec<u64>> =
                values.iter().map(|values| values[..steps].iter().map(|value| value >> shift).collect()).collect();
            for size in SIZES {
                let drawn = svg(&series, size);
                prop_assert!(drawn.starts_with("<svg ") && drawn.trim_end().ends_with("</svg>"));
                prop_assert!(!drawn.contains("NaN") && !drawn.contains("=\"-"), "{}", drawn);
            }
        }
    }
}
