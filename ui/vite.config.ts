import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  // Relative to the page's <base>, which the server writes: the same build works below any path.
  base: "./",
  plugins: [react(), tailwindcss()],
  build: {
    // `build.mjs` empties the folder itself: one file in it is kept.
    emptyOutDir: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    manifest: true,
  },
  server: {
    proxy: { "/api": "http://127.0.0.1:8080", "/health": "http://127.0.0.1:8080", "/metrics": "http://127.0.0.1:8080" },
  },
});
