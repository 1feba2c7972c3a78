// A site's visitors, what is usual, and when a trigger would have fired. The picture is a canvas; the table says the same.
import { useEffect, useRef, useState, type KeyboardEvent, type PointerEvent } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Backtest, Firing } from "../api/backtest";
import { exact, mark, number, zone } from "../format";
import { text } from "../text";
import { Button, Table } from "./ui";

const words = text.triggers;
const HEIGHT = 260;
/** Pixels of what fired, however short it was. */
const LEAST_WIDE = 4;
/** Rows of the table: the last ones, and every one that fired. */
const ROWS = 200;

interface Props {
  told: Pick<Backtest, "series"> & { firings: Pick<Firing, "timestamp" | "ended_at">[] };
  summary: string;
  /** What was observed. */
  counted?: string;
  /** The line that visitors have to reach, by point; absent where there is none. */
  threshold: (number | undefined)[];
  /** What moves the line, where somebody may. */
  handle?: Handle | undefined;
}

/** A setting that says where the line is. What is dragged can be typed and reached by keys as well. */
export interface Handle {
  label: string;
  value: number;
  min: number;
  max: number;
  said: string;
  /** Where the line is at its end. */
  at: number;
  /** The setting that puts the end of the line there. */
  valueAt: (height: number) => number;
  onChange: (value: number) => void;
}

export function Chart({ told, summary, counted = words.series.observed, threshold, handle }: Props) {
  const [table, setTable] = useState(false);
  return (
    <figure className="grid gap-3">
      <figcaption className="flex flex-wrap items-center justify-between gap-3">
        <span className="font-medium">{summary}</span>
        <Button small onClick={() => setTable(!table)} aria-pressed={table}>{table ? text.common.asChart : text.common.asTable}</Button>
      </figcaption>
      {table ? (
        <Numbers told={told} counted={counted} threshold={threshold} />
      ) : (
        <>
          <Picture told={told} summary={summary} threshold={threshold} handle={handle} />
          <Legend told={told} counted={counted} threshold={threshold} />
        </>
      )}
    </figure>
  );
}

/** What the lines of the picture are. Whoever cannot see it has the table. */
function Legend({ told, counted, threshold }: Pick<Props, "told" | "threshold"> & { counted: string }) {
  const known = told.series.some(({ low }) => low !== undefined);
  const marks: [string, string, boolean][] = [
    [counted, "h-0 w-5 border-t-2 border-accent", true],
    [words.series.expected, "h-3 w-5 rounded-sm bg-ink/15", known],
    [words.series.threshold, "h-0 w-5 border-t-2 border-dashed border-warn", threshold.some((value) => value !== undefined)],
    [words.firedAt, "h-3 w-2 rounded-sm bg-bad/30", told.firings.length > 0],
  ];
  return (
    <ul aria-hidden="true" className="flex flex-wrap gap-x-4 gap-y-1 text-xs text-muted">
      {marks.filter(([, , is]) => is).map(([name, look]) => <li key={name} className="flex items-center gap-1.5"><span className={look} />{name}</li>)}
    </ul>
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

type Told = Props["told"];
const seconds = (moment: string) => Date.parse(moment) / 1_000;

function columns(told: Told, threshold: Props["threshold"]): uPlot.AlignedData {
  const column = (name: "observed" | "expected" | "low" | "high") => told.series.map((point) => point[name] ?? null);
  return [told.series.map(({ timestamp }) => seconds(timestamp)), column("low"), column("high"), column("observed"), threshold.map((value) => value ?? null)] as uPlot.AlignedData;
}

function Picture({ told, summary, threshold, handle }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  /** While the line is dragged the scale stands still: otherwise it would run away from the pointer. */
  const held = useRef<number | null>(null);
  const latest = useRef(threshold);
  const [theme, setTheme] = useState(0);
  const [scale, setScale] = useState<{ top: number; height: number; max: number } | null>(null);
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
    const step = told.series.length > 1 ? seconds(told.series[1]!.timestamp) - seconds(told.series[0]!.timestamp) : 300;
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
    const drawn = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        scales: { y: { range: (_, __, max) => [0, held.current ?? Math.max(5, max * 1.1)] } },
        axes: [{ ...axis, size: 34, values: (_, splits) => splits.map((at) => mark(at, (splits[1] ?? at) - (splits[0] ?? at))) }, { ...axis, size: 44 }],
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
                // What is still going on, or was this very moment, ends where the chart ends.
                const end = chart.bbox.left + chart.bbox.width;
                const from = Math.min(chart.valToPos(seconds(firing.timestamp), "x", true), end - LEAST_WIDE);
                const until = Math.min(chart.valToPos(firing.ended_at ? seconds(firing.ended_at) : seconds(firing.timestamp) + step, "x", true), end);
                chart.ctx.fillRect(from, chart.bbox.top, Math.max(LEAST_WIDE, until - from), chart.bbox.height);
              }
              chart.ctx.restore();
            },
          ],
          draw: [
            (chart) => {
              const next = { top: chart.over.offsetTop, height: chart.over.offsetHeight, max: chart.scales["y"]?.max ?? 1 };
              setScale((before) => (before && before.top === next.top && before.height === next.height && before.max === next.max ? before : next));
            },
          ],
        },
      },
      columns(told, latest.current),
      element,
    );
    plot.current = drawn;
    const watcher = new ResizeObserver(() => drawn.setSize({ width: element.clientWidth, height: HEIGHT }));
    watcher.observe(element);
    return () => {
      watcher.disconnect();
      plot.current = null;
      drawn.destroy();
    };
  }, [told, theme]);
  useEffect(() => {
    latest.current = threshold;
    plot.current?.setData(columns(told, threshold));
  }, [told, threshold]);
  return (
    <div className="relative">
      <div ref={place} role="img" aria-label={`${summary} ${text.common.zone(zone)}`} className="min-h-[260px] min-w-0 overflow-hidden" />
      {handle && scale && (
        <Line
          handle={handle}
          scale={scale}
          onHold={(is) => {
            held.current = is ? scale.max : null;
            if (!is) plot.current?.setData(columns(told, latest.current));
          }}
        />
      )}
    </div>
  );
}

/** The end of the line, to be taken hold of. */
function Line({ handle, scale, onHold }: { handle: Handle; scale: { top: number; height: number; max: number }; onHold: (is: boolean) => void }) {
  const { value, min, max } = handle;
  const frame = useRef<DOMRect | null>(null);
  const set = (next: number) => {
    const whole = Math.min(max, Math.max(min, Math.round(next)));
    if (whole !== value) handle.onChange(whole);
  };
  const top = scale.top + scale.height * (1 - Math.min(1, Math.max(0, handle.at / scale.max)));
  const keys = (event: KeyboardEvent) => {
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (step === undefined && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    set(step !== undefined ? value + step : event.key === "Home" ? min : max);
  };
  const take = (event: PointerEvent<HTMLDivElement>) => {
    event.currentTarget.setPointerCapture(event.pointerId);
    frame.current = event.currentTarget.parentElement!.getBoundingClientRect();
    onHold(true);
  };
  const move = (event: PointerEvent) => {
    if (!frame.current) return;
    const share = 1 - (event.clientY - frame.current.top - scale.top) / scale.height;
    set(handle.valueAt(Math.min(1, Math.max(0, share)) * scale.max));
  };
  const leave = () => {
    if (!frame.current) return;
    frame.current = null;
    onHold(false);
  };
  return (
    <div
      role="slider"
      tabIndex={0}
      aria-label={handle.label}
      aria-orientation="vertical"
      aria-valuemin={min}
      aria-valuemax={max}
      aria-valuenow={value}
      aria-valuetext={handle.said}
      title={words.drag}
      onKeyDown={keys}
      onPointerDown={take}
      onPointerMove={move}
      onPointerUp={leave}
      onPointerCancel={leave}
      className="absolute right-0 flex h-7 -translate-y-1/2 cursor-ns-resize touch-none items-center gap-1 rounded-full border border-warn bg-surface px-2.5 text-xs font-medium text-warn select-none hover:bg-warn-tint"
      style={{ top }}
    >
      <span aria-hidden="true">↕</span>{handle.said}
    </div>
  );
}

function Numbers({ told, counted, threshold }: Pick<Props, "told" | "threshold"> & { counted: string }) {
  // Of long times a point stands for several windows: what fired between it and the next one is its own.
  const fired = new Set(told.firings.map(({ timestamp }) => told.series.findLast((point) => Date.parse(point.timestamp) <= Date.parse(timestamp))?.timestamp ?? told.series[0]?.timestamp));
  const rows = told.series.map((point, index) => ({ ...point, line: threshold[index] }));
  const shown = rows.filter((point, index) => index >= rows.length - ROWS || fired.has(point.timestamp)).reverse();
  const cell = (value: number | undefined) => (value === undefined ? "–" : number(Math.round(value * 10) / 10));
  return (
    <div className="max-h-96 overflow-y-auto">
      <Table
        label={words.chart}
        scrolls
        items={shown}
        keyOf={({ timestamp }) => timestamp}
        columns={[
          { name: words.series.at, className: "whitespace-nowrap", of: ({ timestamp }) => exact(timestamp) },
          { name: counted, className: "tabular-nums", of: ({ observed }) => cell(observed) },
          { name: words.series.expected, className: "tabular-nums", of: ({ expected }) => cell(expected) },
          { name: words.series.low, className: "tabular-nums", of: ({ low }) => cell(low) },
          { name: words.series.high, className: "tabular-nums", of: ({ high }) => cell(high) },
          { name: words.series.threshold, className: "tabular-nums", of: ({ line }) => cell(line) },
          { name: words.firedAt, of: ({ timestamp }) => fired.has(timestamp) && <><span aria-hidden="true">●</span><span className="sr-only">{words.firedAt}</span></> },
        ]}
      />
    </div>
  );
}
