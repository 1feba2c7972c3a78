// A short word after something was done. Said politely to screen readers; it goes by itself.
import { useEffect, useSyncExternalStore } from "react";

let shown: { id: number; word: string } | null = null;
const listeners = new Set<() => void>();

function set(next: typeof shown) {
  shown = next;
  for (const listener of listeners) listener();
}

export const tell = (word: string) => set({ id: (shown?.id ?? 0) + 1, word });

export function Toasts() {
  const toast = useSyncExternalStore((listener) => (listeners.add(listener), () => listeners.delete(listener)), () => shown);
  useEffect(() => {
    if (!toast) return;
    const timer = setTimeout(() => set(null), 4_000);
    return () => clearTimeout(timer);
  }, [toast]);
  return (
    <div role="status" aria-live="polite" className="pointer-events-none fixed inset-x-0 bottom-6 z-50 flex justify-center">
      {toast && <p className="rounded-lg bg-ink px-4 py-2 text-sm font-medium text-ground shadow-lg">{toast.word}</p>}
    </div>
  );
}
