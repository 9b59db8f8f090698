use std::fmt::Write as _;

use super::layout::{Layout, layout};
use super::{Node, colours, nodes};
use crate::pipeline::plan::Plan;
use crate::pipeline::status::StepStatus;

/// Sizes in pixels.
const BOX_HEIGHT: f64 = 44.0;
const ROW_HEIGHT: f64 = 60.0;
const LAYER_GAP: f64 = 64.0;
const MARGIN: f64 = 20.0;
const PADDING: f64 = 14.0;
/// Widest ASCII letters of the font at 13 px; other characters may be twice as wide.
const CHARACTER_WIDTH: f64 = 8.1;
/// Longer labels are cut; the whole one is shown on pointing at the box.
const LABEL_MAX_CHARS: usize = 40;

/// The plan as an SVG document. `statuses` is by index of [`Plan::steps`]; it may be empty.
pub fn svg(plan: &Plan, statuses: &[Option<StepStatus>]) -> String {
    let nodes = nodes(plan, statuses);
    let layout = layout(&nodes);
    let columns = columns(&nodes, &layout);
    let width = columns.last().map_or(0.0, |(left, width)| left + width) + MARGIN;
    let height = 2.0 * MARGIN + (layout.row_count - 1.0) * ROW_HEIGHT + BOX_HEIGHT;
    let mut text = String::new();
    let name = escaped(plan.name.as_str());
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} \
         {height:.0}\" role=\"img\" aria-labelledby=\"pipeline-title pipeline-desc\" font-family=\"system-ui, \
         -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\" font-size=\"13\">"
    );
    let _ = writeln!(text, "<title id=\"pipeline-title\">Pipeline {name}</title>");
    let _ = writeln!(text, "<desc id=\"pipeline-desc\">{}</desc>", description(&nodes));
    text.push_str(
        "<defs><marker id=\"pipeline-arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#57606a\"/></marker></defs>\n",
    );
    let _ = writeln!(text, "<rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#ffffff\"/>");
    text.push_str("<g fill=\"none\" stroke=\"#57606a\" stroke-width=\"1.2\">\n");
    for edge in &layout.edges {
        let _ = writeln!(
            text,
            "<path d=\"{}\" marker-end=\"url(#pipeline-arrow)\"/>",
            path(edge, &layout, &columns)
        );
    }
    text.push_str("</g>\n");
    for (index, node) in nodes.iter().enumerate() {
        draw(node, index, &layout, &columns, &mut text);
    }
    text.push_str("</svg>\n");
    text
}

/// For those who do not see the picture: how many steps there are, and what each needs.
fn description(nodes: &[Node]) -> String {
    const TOLD: usize = 50;
    let mut text = format!("{} steps.", nodes.len());
    for node in nodes.iter().take(TOLD) {
        let needs = super::needs_text(nodes, node).replace("  ← ", " after ");
        let _ = write!(text, " {} ({}){needs}.", node.label, node.detail);
    }
    escaped(&text)
}

/// Left edge and width of each layer's column.
fn columns(nodes: &[Node], layout: &Layout) -> Vec<(f64, f64)> {
    let mut widths = vec![0.0_f64; layout.layer_count];
    for vertex in &layout.vertices {
        let width = vertex.node.and_then(|node| nodes.get(node)).map_or(0.0, box_width);
        if let Some(widest) = widths.get_mut(vertex.layer) {
            *widest = widest.max(width);
        }
    }
    let mut left = MARGIN;
    widths
        .into_iter()
        .map(|width| {
            let column = (left, width);
            left += width + LAYER_GAP;
            column
        })
        .collect()
}

fn box_width(node: &Node) -> f64 {
    let width = |text: &str| -> f64 {
        cut(text)
            .chars()
            .map(|character| if character.is_ascii() { CHARACTER_WIDTH } else { 2.0 * CHARACTER_WIDTH })
            .sum()
    };
    2.0 * PADDING + width(&node.label).max(width(&node.detail))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LABEL_MAX_CHARS {
        return text.to_owned();
    }
    text.chars().take(LABEL_MAX_CHARS - 1).chain(['…']).collect()
}

fn middle(row: f64) -> f64 {
    MARGIN + BOX_HEIGHT / 2.0 + row * ROW_HEIGHT
}

/// The curve of an edge: out at the right of its first box, straight through the columns that it passes, in at the left
/// of its last box.
fn path(edge: &[usize], layout: &Layout, columns: &[(f64, f64)]) -> String {
    let mut text = String::new();
    let mut x = 0.0;
    let mut y = 0.0;
    for (position, vertex) in edge.iter().filter_map(|index| layout.vertices.get(*index)).enumerate() {
        let (left, width) = columns.get(vertex.layer).copied().unwrap_or_default();
        let to = middle(vertex.row);
        if position == 0 {
            let _ = write!(text, "M{:.1} {to:.1}", left + width);
        } else {
            let half = (left - x) / 2.0;
            let _ = write!(text, "C{:.1} {y:.1} {:.1} {to:.1} {left:.1} {to:.1}", x + half, left - half);
            if vertex.node.is_none() {
                let _ = write!(text, "H{:.1}", left + width);
            }
        }
        x = left + width;
        y = to;
    }
    text
}

fn draw(node: &Node, index: usize, layout: &Layout, columns: &[(f64, f64)], text: &mut String) {
    let Some(vertex) = layout.vertices.get(index) else { return };
    // As wide as its column, so that edges begin and end at the box.
    let (left, width) = columns.get(vertex.layer).copied().unwrap_or_default();
    let top = middle(vertex.row) - BOX_HEIGHT / 2.0;
    let (fill, line) = colours(node.status);
    let dash = if node.status == Some(StepStatus::Skipped) { " stroke-dasharray=\"4 3\"" } else { "" };
    let (label, detail) = (escaped(&cut(&node.label)), escaped(&cut(&node.detail)));
    let (whole_label, whole_detail) = (escaped(&node.label), escaped(&node.detail));
    let text_left = left + PADDING;
    let _ = writeln!(text, "<g><title>{whole_label}: {whole_detail}</title>");
    let _ = writeln!(
        text,
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"{fill}\" \
         stroke=\"{line}\" stroke-width=\"1.5\"{dash}/>"
    );
    let _ = writeln!(
        text,
        "<text x=\"{text_left:.1}\" y=\"{:.1}\" font-weight=\"600\" fill=\"#1f2328\">{label}</text>",
        top + 18.0
    );
    let _ = writeln!(
        text,
        "<text x=\"{text_left:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#424a53\">{detail}</text></g>",
        top + 35.0
    );
}

/// Text for XML. What no XML document may hold is replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}
