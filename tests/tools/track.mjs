// Drives a tracker as a page would. Usage: track.mjs plausible-tracker|official SERVER SITE
// The page is https://SITE/pricing, reached from a search; it is looked at, and then somebody signs up.
import { JSDOM, ResourceLoader } from "jsdom";

const [which, server, site] = process.argv.slice(2);
const userAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0";
const page = new JSDOM("<!doctype html><title>Pricing</title><p>Prices</p>", {
  url: `https://${site}/pricing?utm_source=newsletter`,
  referrer: "https://www.google.com/",
  resources: new ResourceLoader({ userAgent }),
  pretendToBeVisual: true,
});
const { window } = page;

// A browser adds where the request comes from; the trackers cannot.
const answers = [];
const pending = [];
window.fetch = globalThis.fetch = ((fetch) => (url, options) => {
  const headers = { ...options.headers, origin: window.location.origin, "user-agent": userAgent };
  const answer = fetch(url, { ...options, headers });
  pending.push(answer.then((response) => answers.push([response.status, response.headers.get("x-plausible-dropped")])));
  return answer;
})(globalThis.fetch);
// jsdom lays nothing out, so nothing ever changes its size; the page has a height all the same.
window.ResizeObserver = class {
  observe() {}
};
Object.defineProperty(window.document.documentElement, "scrollHeight", { value: 2 * window.innerHeight });
for (const name of ["ResizeObserver", "window", "document", "location", "navigator", "history", "localStorage", "XMLHttpRequest"]) {
  Object.defineProperty(globalThis, name, { value: name === "window" ? window : window[name], configurable: true });
}

// XMLHttpRequest of jsdom sends and checks the headers of other origins by itself.
const opened = window.XMLHttpRequest.prototype.open;
window.XMLHttpRequest.prototype.open = function (...args) {
  pending.push(
    new Promise((done) =>
      this.addEventListener("loadend", () => {
        answers.push([this.status, this.getResponseHeader("x-plausible-dropped")]);
        done();
      }),
    ),
  );
  return opened.apply(this, args);
};

if (which === "plausible-tracker") {
  const { default: Plausible } = await import("plausible-tracker");
  const tracker = (Plausible.default ?? Plausible)({ domain: site, apiHost: server });
  tracker.trackPageview();
  tracker.trackEvent("Signup", { props: { plan: "pro" } });
} else {
  const { init, track } = await import("@plausible-analytics/tracker");
  init({ domain: site, endpoint: `${server}/api/event`, logging: true });
  track("Signup", { props: { plan: "pro" } });
  // Somebody looks away: the tracker reports how much of the page was seen.
  window.document.hasFocus = () => false;
  window.dispatchEvent(new window.Event("blur"));
}

while (pending.length > 0) await pending.shift();
console.log(JSON.stringify(answers));
window.close();
process.exit(0);
