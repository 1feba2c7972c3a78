<?php
// php -S 127.0.0.1:8000 verify.php
function verified(string $body): bool
{
    $key = base64_decode(preg_replace('/^whsec_/', '', getenv('PULSEHOOK_WEBHOOK_SECRET')));
    $sentAt = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '0';
    if (abs(time() - (int) $sentAt) > 300) {
        return false;
    }
    $signed = ($_SERVER['HTTP_WEBHOOK_ID'] ?? '') . ".$sentAt.$body";
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', $signed, $key, true));
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $one) {
        if (hash_equals($expected, $one)) {
            return true;
        }
    }
    return false;
}

$good = verified(file_get_contents('php://input'));
http_response_code($good ? 204 : 401);
if ($good) {
    error_log('verified ' . $_SERVER['HTTP_X_WEBHOOK_EVENT_TYPE']);
}
