require "base64"
require "openssl"
require "socket"

KEY = Base64.strict_decode64(ENV.fetch("PULSEHOOK_WEBHOOK_SECRET").delete_prefix("whsec_"))

def verified?(headers, body)
  sent_at = headers["webhook-timestamp"].to_i
  return false if (Time.now.to_i - sent_at).abs > 300

  signed = "#{headers["webhook-id"]}.#{sent_at}.#{body}"
  expected = "v1,#{Base64.strict_encode64(OpenSSL::HMAC.digest("SHA256", KEY, signed))}"
  headers["webhook-signature"].split.any? { |one| OpenSSL.secure_compare(expected, one) }
end

# In Rails or Rack: request.body.read, and request.headers["webhook-id"] and so on.
server = TCPServer.new("127.0.0.1", ENV.fetch("PORT", "8000").to_i)
puts "listening"
$stdout.flush
loop do
  client = server.accept
  client.gets
  headers = {}
  while (line = client.gets) && line != "\r\n"
    name, value = line.chomp.split(": ", 2)
    headers[name.downcase] = value
  end
  body = client.read(headers["content-length"].to_i)
  good = verified?(headers, body)
  client.write("HTTP/1.1 #{good ? "204 No Content" : "401 Unauthorized"}\r\nconnection: close\r\n\r\n")
  client.close
  puts "verified #{headers["x-webhook-event-type"]}" if good
  $stdout.flush
end
