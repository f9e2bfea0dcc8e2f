/** A bar chart as SVG, readable on light and dark pages. */

/** One bar. */
export interface Bar {
  readonly label: string;
  readonly value: number;
  /** Written at its end. */
  readonly text: string;
  /** A tick across the bar: what it should reach. */
  readonly goal?: number | undefined;
  /** Pale: what ours is held against. */
  readonly pale?: boolean;
}

const LABEL = 290;
const WIDTH = 760;
const ROW = 24;
const TOP = 44;

const STYLE = `
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.bar { fill: #2f6fd6 } .pale { fill: #9aa4af }
.line { stroke: #8b949e; stroke-dasharray: 3 3 } .goal { stroke: #c9510c; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.bar { fill: #4c8df6 } .pale { fill: #59636e } .goal { stroke: #f0883e }
}`;

const escape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');

/**
 * Horizontal bars over one scale that begins at 0.
 * @param line a value with a dashed line through all bars, such as 1 of multiples.
 */
export function barChart(title: string, bars: readonly Bar[], line?: number): string {
  const most = Math.max(...bars.map(({ value, goal = 0 }) => Math.max(value, goal)), line ?? 0);
  const room = WIDTH - LABEL - 90;
  const x = (value: number): number => Math.round((LABEL + (room * value) / most) * 10) / 10;
  const height = TOP + ROW * bars.length + 10;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escape(title)}">`,
    `<style>${STYLE}\n</style>`,
    `<text class="title" x="10" y="22">${escape(title)}</text>`,
  ];
  if (line !== undefined)
    out.push(`<line class="line" x1="${x(line)}" x2="${x(line)}" y1="${TOP - 8}" y2="${height - 6}"/>`);
  bars.forEach(({ label, value, text, goal, pale }, i) => {
    const y = TOP + ROW * i;
    out.push(
      `<text x="${LABEL - 10}" y="${y + 12}" text-anchor="end">${escape(label)}</text>`,
      `<rect class="${pale === true ? 'pale' : 'bar'}" x="${LABEL}" y="${y}" width="${Math.max(1, x(value) - LABEL)}" height="16" rx="2"/>`,
    );
    const end = Math.max(x(value), goal === undefined ? 0 : x(goal));
    if (goal !== undefined && goal > 0)
      out.push(`<line class="goal" x1="${x(goal)}" x2="${x(goal)}" y1="${y - 3}" y2="${y + 19}"/>`);
    out.push(`<text x="${end + 6}" y="${y + 12}">${escape(text)}</text>`);
  });
  return `${out.join('\n')}\n</svg>\n`;
}
