// Verifies a signature in the browser, as a receiver would.
export type Verdict = "valid" | "invalid" | "insecure" | "badSecret";

/** The bytes of a secret: base64 after `whsec_`, otherwise the text itself. */
function keyOf(secret: string): Uint8Array<ArrayBuffer> {
  if (!secret.startsWith("whsec_")) return new TextEncoder().encode(secret);
  return Uint8Array.from(atob(secret.slice("whsec_".length)), (letter) => letter.charCodeAt(0));
}

export async function verify(secret: string, id: string, timestamp: string, signatures: string, body: string): Promise<Verdict> {
  if (!globalThis.crypto?.subtle) return "insecure";
  let raw: Uint8Array<ArrayBuffer>;
  try {
    raw = keyOf(secret.trim());
  } catch {
    return "badSecret";
  }
  const key = await crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  const signed = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
  for (const one of signatures.split(/\s+/)) {
    const [version, sum] = one.split(",");
    if (version !== "v1" || !sum) continue;
    try {
      const bytes = Uint8Array.from(atob(sum), (letter) => letter.charCodeAt(0));
      if (await crypto.subtle.verify("HMAC", key, bytes, signed)) return "valid";
    } catch {
      // Not base64: not a signature of ours.
    }
  }
  return "invalid";
}
