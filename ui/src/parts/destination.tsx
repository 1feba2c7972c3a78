import { INBOX } from "../api/client";
import { text } from "../text";
import { UrlField } from "./url-check";

const words = text.webhooks;

interface Props {
  site: string;
  url: string;
  onChange: (url: string) => void;
  errors: string[] | undefined;
  format: string;
  /** What to sign a ping with, if it is known here. */
  secret?: string | undefined;
}

/** An endpoint of one's own, or the inbox that shows deliveries before there is one. */
export function Destination({ url, onChange, ...rest }: Props) {
  const inbox = url === INBOX;
  const choices = [
    [false, words.destinations.own, words.destinations.ownHint],
    [true, words.destinations.inbox, words.destinations.inboxHint],
  ] as const;
  return (
    <div className="grid gap-4">
      <fieldset className="grid gap-2">
        <legend className="mb-1 text-sm font-medium">{words.destination}</legend>
        <div className="grid gap-2 sm:grid-cols-2">
          {choices.map(([value, label, hint]) => (
            <label key={label} className="flex items-start gap-2.5 rounded-lg border border-line px-4 py-3 text-sm has-checked:border-accent has-checked:bg-tint">
              <input type="radio" name="destination" checked={inbox === value} onChange={() => onChange(value ? INBOX : "")} className="mt-0.5 size-4.5 shrink-0 accent-press" />
              <span><span className="block font-medium">{label}</span><span className="block text-muted">{hint}</span></span>
            </label>
          ))}
        </div>
      </fieldset>
      {!inbox && <UrlField url={url} onChange={onChange} {...rest} />}
    </div>
  );
}
