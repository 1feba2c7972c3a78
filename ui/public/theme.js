// Before the first paint, so that nothing flashes. "light" or "dark" by choice; otherwise the style follows the system.
try {
  const theme = localStorage.getItem("pulsehook.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden: the system decides.
}
