// A site's visitors, what is usual, and when a trigger would have fired. The picture is a canvas; the table says the same.
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Backtest } from "../api/backtest";
import { exact, mark, number, zone } from "../format";
import { text } from "../text";
import { Button, Table } from "./ui";

const words = text.triggers;
const HEIGHT = 260;
/** Rows of the table: the last ones, and every one that fired. */
const ROWS = 200;

interface Props {
  told: Backtest;
  summary: string;
  /** The line that visitors have to reach, by point; absent where there is none. */
  threshold: (number | undefined)[];
}

export function Chart({ told, summary, threshold }: Props) {
  const [table, setTable] = useState(false);
  return (
    <figure className="grid gap-3">
      <figcaption className="flex flex-wrap items-center justify-between gap-3">
        <span className="font-medium">{summary}</span>
        <Button small onClick={() => setTable(!table)} aria-pressed={table}>{table ? text.common.asChart : text.common.asTable}</Button>
      </figcaption>
      {table ? <Numbers told={told} threshold={threshold} /> : <Picture told={told} summary={summary} threshold={threshold} />}
    </figure>
  );
}

/** A colour by its name, as it is in the theme that is on. */
function colour(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const faint = (colour: string, share: number) => colour.replace(/^rgba?\(([^)]+?)\)$/, (_, parts: string) => `rgba(${parts.split(",").slice(0, 3).join(",")}, ${share})`);

function Picture({ told, summary, threshold }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const changed = () => setTheme((count) => count + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    const watcher = new MutationObserver(changed);
    system.addEventListener("change", changed);
    watcher.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      system.removeEventListener("change", changed);
      watcher.disconnect();
    };
  }, []);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const [ink, muted, line, accent, bad, warn] = ["ink", "muted", "line", "accent", "bad", "warn"].map(colour) as [string, string, string, string, string, string];
    const seconds = (moment: string) => Date.parse(moment) / 1_000;
    const column = (name: "observed" | "expected" | "low" | "high") => told.series.map((point) => point[name] ?? null);
    const data = [told.series.map(({ timestamp }) => seconds(timestamp)), column("low"), column("high"), column("observed"), threshold.map((value) => value ?? null)] as uPlot.AlignedData;
    const step = told.series.length > 1 ? seconds(told.series[1]!.timestamp) - seconds(told.series[0]!.timestamp) : 300;
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        scales: { y: { range: (_, __, max) => [0, Math.max(5, max * 1.1)] } },
        axes: [{ ...axis, values: (_, splits) => splits.map((at) => mark(at, (splits[1] ?? at) - (splits[0] ?? at))) }, { ...axis, size: 44 }],
        series: [
          {},
          { stroke: "transparent", points: { show: false } },
          { stroke: "transparent", points: { show: false } },
          { stroke: accent, width: 1.5, points: { show: false } },
          { stroke: warn, width: 1.5, dash: [6, 4], points: { show: false } },
        ],
        bands: [{ series: [2, 1], fill: faint(ink, 0.1) }],
        hooks: {
          drawClear: [
            (chart) => {
              chart.ctx.save();
              chart.ctx.fillStyle = faint(bad, 0.22);
              for (const firing of told.firings) {
                const from = chart.valToPos(seconds(firing.timestamp), "x", true);
                const until = chart.valToPos(firing.ended_at ? seconds(firing.ended_at) : seconds(firing.timestamp) + step, "x", true);
                chart.ctx.fillRect(from, chart.bbox.top, Math.max(3, until - from), chart.bbox.height);
              }
              chart.ctx.restore();
            },
          ],
        },
      },
      data,
      element,
    );
    const watcher = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    watcher.observe(element);
    return () => {
      watcher.disconnect();
      plot.destroy();
    };
  }, [told, threshold, theme]);
  return <div ref={place} role="img" aria-label={`${summary} ${text.common.zone(zone)}`} className="min-h-[260px] min-w-0 overflow-hidden" />;
}

function Numbers({ told, threshold }: { told: Backtest; threshold: (number | undefined)[] }) {
  // Of long times a point stands for several windows: what fired between it and the next one is its own.
  const fired = new Set(told.firings.map(({ timestamp }) => told.series.findLast((point) => Date.parse(point.timestamp) <= Date.parse(timestamp))?.timestamp ?? told.series[0]?.timestamp));
  const rows = told.series.map((point, index) => ({ ...point, line: threshold[index] }));
  const shown = rows.filter((point, index) => index >= rows.length - ROWS || fired.has(point.timestamp)).reverse();
  const cell = (value: number | undefined) => (value === undefined ? "–" : number(Math.round(value * 10) / 10));
  return (
    <div className="max-h-96 overflow-y-auto">
      <Table label={words.chart} head={[words.series.at, words.series.observed, words.series.expected, words.series.low, words.series.high, words.series.threshold, words.firedAt]}>
        {shown.map((point) => (
          <tr key={point.timestamp}>
            <td className="px-5 py-1.5 whitespace-nowrap">{exact(point.timestamp)}</td>
            {[point.observed, point.expected, point.low, point.high, point.line].map((value, index) => <td key={index} className="px-5 py-1.5 tabular-nums">{cell(value)}</td>)}
            <td className="px-5 py-1.5">{fired.has(point.timestamp) ? "●" : ""}<span className="sr-only">{fired.has(point.timestamp) ? words.firedAt : ""}</span></td>
          </tr>
        ))}
      </Table>
    </div>
  );
}
