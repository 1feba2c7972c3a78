// The few pictures, drawn in the colour of the text around them.
const PATHS = {
  check: "M5 13l4 4L19 7",
  alert: "M12 8v5m0 3.5v.01M12 3l9.5 17h-19z",
  clock: "M12 7v5l3 2M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  dot: "M12 12m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  plus: "M12 5v14M5 12h14",
  send: "M4 12l16-8-5 16-3.5-6.5z",
  pause: "M9 5v14M15 5v14",
  play: "M8 5l11 7-11 7z",
  trash: "M4 7h16M10 11v6M14 11v6M6 7l1 13h10l1-13M9 7V4h6v3",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  key: "M14 10a4 4 0 1 0-3.5 4L13 16.5h2v2h2v2h3v-3z",
  hook: "M12 4a4 4 0 0 1 3.5 6l3 6a3.5 3.5 0 1 1-3 5H9.5m-4-4.600a3.500 3.500 0 1 0 4 4.600l3-8",
  globe: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM3 12h18M12 3c6 6 6 12 0 18c-6-6-6-12 0-18z",
  flag: "M5 21V4h13l-3 4.500 3 4.500H5",
  list: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  people: "M9 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM2 21a7 7 0 0 1 14 0M16 3.500a4 4 0 0 1 0 7.500M22 21a7 7 0 0 0-4-6.300",
  shield: "M12 3l8 3v6c0 5-3.500 8-8 9-4.500-1-8-4-8-9V6zM9 12l2 2 4-4",
  gauge: "M12 13l4-4M4 18a9 9 0 1 1 16 0z",
  repeat: "M4 11a8 8 0 0 1 14-4l2 2M20 4v5h-5M20 13a8 8 0 0 1-14 4l-2-2M4 20v-5h5",
  menu: "M4 7h16M4 12h16M4 17h16",
  moon: "M20 14a8 8 0 1 1-10-10 7 7 0 0 0 10 10z",
  inbox: "M3 13l3-8h12l3 8v6H3zM3 13h5l1.500 3h5l1.500-3h5",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20 20l-4-4",
  back: "M15 5l-7 7 7 7",
} as const;
export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true" className="shrink-0">
      <path d={PATHS[name]} />
    </svg>
  );
}
